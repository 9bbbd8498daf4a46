//! The README's five minutes, word for word: every command line of them is run, in their order,
//! with every file as it stands there, and prints what it is shown to print. Postern runs in a
//! namespace, strongSwan in a guest on its kernel's ESP; a tunnel has to pass traffic in the end.
//!
//! The lines that cannot run here stand in [`ELSEWHERE`], each with its reason.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use conformance::failure::{Failure, Outcome, ensure};
use conformance::guest::Guest;
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::postern::built;
use conformance::sandbox::Sandbox;
use conformance::topology::{Family, Side, Wire};

/// What one line may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Lines that are not run, by their beginning, and why.
const ELSEWHERE: [(&str, &str); 3] = [
    ("sudo apt-get install gcc", "needs package servers; this machine has what it installs"),
    ("make build", "takes minutes; `make install` gets the programs that this test judges"),
    ("sudo apt-get install charon", "needs package servers; the guest's image has these packages"),
];

/// There is no sudo, no systemd and no person in a namespace.
const SUDO: &str = "exec \"$@\"";
const EDITOR: &str = "exec cat /run/typed >\"$1\"";
const SYSTEMCTL: &str = "\
[ \"$*\" = 'enable --now posternd' ] || { echo \"systemctl $*: not known here\" >&2; exit 1; }
unit=/usr/local/lib/systemd/system/posternd.service
start=$(sed -n 's/^ExecStart=//p' $unit)
mkdir -p /run/postern
setsid $start >/run/posternd.log 2>&1 </dev/null &
for look in $(seq 400); do
    postern version >/dev/null 2>&1 && exit 0
    sleep 0.1
done
cat /run/posternd.log >&2
exit 1";

/// One fenced block of the quick start.
struct Block<'a> {
    /// Where it is typed, or the file that it is.
    place: &'a str,
    text: &'a str,
}

/// A command line and what it is shown to print.
struct Line<'a> {
    command: &'a str,
    shown: Vec<&'a str>,
}

/// Everything behind a `<!-- quick start: PLACE -->`, in the order of the README.
fn blocks(readme: &str) -> Outcome<Vec<Block<'_>>> {
    let parts = readme.split("<!-- quick start: ").skip(1);
    let block = |part: &'_ str| -> Option<(usize, usize, usize)> {
        let place = part.find(" -->\n```")?;
        let start = place + 5 + part.get(place + 5..)?.find('\n')? + 1;
        let end = start + part.get(start..)?.find("\n```")?;
        Some((place, start, end))
    };
    parts
        .map(|part| {
            block(part)
                .and_then(|(place, start, end)| {
                    Some(Block { place: part.get(..place)?, text: part.get(start..end)? })
                })
                .ok_or_else(|| Failure::new(format!("a mark without its block: {part:.60}")))
        })
        .collect()
}

fn lines<'a>(block: &Block<'a>) -> Outcome<Vec<Line<'a>>> {
    let mut lines: Vec<Line<'a>> = Vec::new();
    for text in block.text.lines() {
        match (text.strip_prefix("$ "), lines.last_mut()) {
            (Some(command), _) => lines.push(Line { command, shown: Vec::new() }),
            (None, Some(line)) => line.shown.push(text),
            (None, None) => return Err(Failure::new(format!("nothing prints `{text}`"))),
        }
    }
    Ok(lines)
}

/// A text in which every count and every span of time is alike; what tells one suite, address or
/// network from another stays.
fn without_numbers(text: &str) -> String {
    let masked = |word: &str| {
        let number = word.trim_end_matches([',', ':', ')']);
        let counts = number.starts_with(|c: char| c.is_ascii_digit())
            && number.chars().all(|c| c.is_ascii_digit() || "smhd.".contains(c))
            && number.matches('.').count() < 2;
        if counts { word.replace(number, "#") } else { word.to_owned() }
    };
    text.split(' ')
        .map(|word| word.split('\n').map(masked).collect::<Vec<_>>().join("\n"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn numbers_are_alike_and_names_are_not() {
    let shown =
        "net  installed  10.1.0.0/16  aes128gcm16  in 0 B 0 B/s  rekey in 56m42s\nup 4s, 1 of 1";
    let alike = "net  installed  10.1.0.0/16  aes128gcm16  in # B # B/s  rekey in #\nup #, # of #";
    assert_eq!(without_numbers(shown), alike);
    assert_ne!(without_numbers(shown), without_numbers(&shown.replace("128", "256")));
}

/// Whether what was printed is what the README shows; a key is as random as it should be.
fn ensure_shown(line: &Line<'_>, printed: &str) -> Outcome {
    if line.shown.is_empty() || line.command.contains("/dev/urandom") {
        return Ok(());
    }
    let (shown, printed) = (line.shown.join("\n"), printed.trim_end());
    ensure(without_numbers(&shown) == without_numbers(printed), || {
        format!("`{}` is shown to print\n{shown}\nand printed\n{printed}", line.command)
    })
}

/// The machines of the quick start.
struct Machines<'a> {
    lab: &'a Lab,
    ours: &'a Sandbox,
    theirs: &'a Guest,
    built: String,
}

impl Machines<'_> {
    /// Types a line at a place; returns what it printed.
    fn run(&self, place: &str, line: &str) -> Outcome<String> {
        let done = match place {
            "gw-a" => self.ours.run(line, &[("BUILT", &self.built)], LIMIT)?,
            "gw-b" => self.theirs.run(line, LIMIT)?,
            "a machine behind gw-a" => {
                self.lab.net.client(Side::Left).run(&["sh", "-c", line], LIMIT)?
            }
            other => return Err(Failure::new(format!("no machine is called `{other}`"))),
        };
        ensure(done.code == 0, || {
            let log =
                self.ours.path("/run/posternd.log").and_then(|log| Ok(fs::read_to_string(log)?));
            let log = log.unwrap_or_default();
            format!("{place}$ {line}\nended with {}: {}\n{log}", done.code, done.text())
        })?;
        Ok(done.stdout)
    }

    /// What the person in front of a machine types into the next editor.
    fn typed(&self, place: &str, text: &str) -> Outcome {
        match place {
            "gw-b" => self.theirs.write("/run/typed", text),
            _ => Ok(fs::write(self.ours.path("/run/typed")?, format!("{text}\n"))?),
        }
    }
}

#[test]
fn the_quick_start_of_the_readme_gives_a_tunnel() -> Outcome {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let readme = fs::read_to_string(top.join("README.md"))?;
    let blocks = blocks(&readme)?;
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let folder = lab.folder(Side::Left)?;
        let ours = Sandbox::new(lab.net.gateway(Side::Left), "gw-a", &top, &folder)?;
        for (name, script) in [("sudo", SUDO), ("editor", EDITOR), ("systemctl", SYSTEMCTL)] {
            ours.tool(name, script)?;
        }
        let place = folder.join("built");
        fs::create_dir_all(&place)?;
        for name in ["posternd", "postern"] {
            fs::copy(built(name)?, place.join(name))?;
        }
        let theirs = lab.guest(Side::Right, &[], &conformance::strongswan::Options::default())?;
        for (name, script) in [("sudo", SUDO), ("editor", EDITOR)] {
            theirs.write(&format!("/bin/{name}"), &format!("#!/bin/sh\n{script}"))?;
            theirs.must(&format!("chmod 755 /bin/{name}"))?;
        }
        // As the package brings it.
        let packaged = fs::read_to_string("/etc/swanctl/swanctl.conf")?;
        theirs.write("/etc/swanctl/swanctl.conf", &packaged)?;
        theirs.must("mkdir -p /etc/swanctl/conf.d; echo 0 >/proc/sys/net/ipv4/ip_forward")?;
        lab.net.gateway(Side::Left).sysctl(&[("net.ipv4.ip_forward", "0")])?;

        let built = place.display().to_string();
        follow(&blocks, &Machines { lab, ours: &ours, theirs: &theirs, built })?;

        lab.exchange(Family::V4, 100, 1300)?.must_be_whole()?;
        for seen in lab.no_canary_so_far()? {
            ensure(seen.count(Kind::Esp) >= 200, || {
                format!("{} saw {:?}", seen.title, seen.kinds())
            })?;
        }
        Ok(())
    })
}

/// Says it to whoever runs the tests; what `println!` says they see of failures only.
fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "quick start: {text}");
}

/// Types every line where it belongs, in order.
fn follow(blocks: &[Block<'_>], machines: &Machines<'_>) -> Outcome {
    let (mut key, mut shown_key) = (String::new(), String::new());
    let (mut ran, mut left) = (0, 0);
    for (index, block) in blocks.iter().enumerate().filter(|(_, b)| !b.place.starts_with('/')) {
        let places = match block.place {
            "both" => &["gw-a", "gw-b"],
            _ => std::slice::from_ref(&block.place),
        };
        let lines = lines(block)?;
        for (place, line) in places.iter().flat_map(|p| lines.iter().map(move |line| (*p, line))) {
            let command = line.command;
            if let Some((_, why)) = ELSEWHERE.iter().find(|(start, _)| command.starts_with(start)) {
                say(&format!("not run: {place}$ {command}  ({why})"));
                left += 1;
                continue;
            }
            if let Some(path) = command.strip_prefix("sudo editor ") {
                let file = blocks.get(index + 1).filter(|block| block.place == path);
                let file = file.ok_or_else(|| Failure::new(format!("no text for {path}")))?;
                ensure(!key.is_empty() && file.text.contains(&shown_key), || {
                    format!("{path} has not the key that was made")
                })?;
                machines.typed(place, &file.text.replace(&shown_key, &key))?;
            }
            let printed = machines.run(place, command)?;
            say(&format!("{place}$ {command}"));
            ensure_shown(line, &printed)?;
            if command.contains("/dev/urandom") {
                key = printed.trim().to_owned();
                shown_key = line.shown.concat();
                ensure(key.starts_with("0s") && key.len() >= 40, || format!("a key: {key}"))?;
            }
            ran += 1;
        }
    }
    ensure(left == ELSEWHERE.len(), || "a line that is not run here is gone".to_owned())?;
    ensure(ran >= 12, || format!("only {ran} lines ran"))
}
