//! The README's five minutes, as written: its config.toml for Postern, its swanctl.conf for a
//! strongSwan on a kernel's ESP, its commands, and a tunnel that passes traffic.

use std::path::Path;

use conformance::failure::{Failure, Outcome, ensure};
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::postern::Options;
use conformance::scenario::UP;
use conformance::topology::{Family, Side, Wire};

#[test]
fn the_quick_start_of_the_readme_gives_a_tunnel() -> Outcome {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme)?;
    let ours = block(&readme, "config.toml")?;
    let theirs = block(&readme, "swanctl.conf")?;
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let peer = lab.guest(Side::Right, &[], &conformance::strongswan::Options::default())?;
        let us = lab.postern(Side::Left, &[], &Options::default())?;
        // The harness adds where this Postern keeps its socket and state, nothing else.
        let places = us.config(&[], &Options::default());
        us.write_config_text(&format!("{places}\n{ours}"))?;
        us.reload()?;
        peer.write("/etc/swanctl/swanctl.conf", &theirs)?;
        peer.must("swanctl --load-all --noprompt")?;

        us.must_cli(&["up", "gw-b"])?;
        us.wait_up("gw-b", UP)?;
        us.must_cli(&["sa"])?;
        lab.exchange(Family::V4, 100, 1300)?.must_be_whole()?;
        for seen in lab.no_canary_so_far()? {
            ensure(seen.count(Kind::Esp) >= 200, || {
                format!("{} saw {:?}", seen.title, seen.kinds())
            })?;
        }
        Ok(())
    })
}

/// The fenced block behind `<!-- quick start: NAME -->`.
fn block(readme: &str, name: &str) -> Outcome<String> {
    let mark = format!("<!-- quick start: {name} -->");
    readme
        .split_once(&mark)
        .and_then(|(_, rest)| rest.split_once("\n```")?.1.split_once('\n')?.1.split_once("\n```"))
        .map(|(text, _)| text.to_owned())
        .ok_or_else(|| Failure::new(format!("the README has no block for {name}")))
}
