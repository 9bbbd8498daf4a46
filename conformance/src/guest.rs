//! A guest with the distribution's kernel and strongSwan, as a peer whose ESP is not ours.
//!
//! The machine that runs the tests need not have ESP in its kernel; strongSwan's user-space ESP
//! has neither ESN nor protocol 50. The guest has both. It is emulated (no KVM), boots in a few
//! seconds and is a functional peer, not a fast one.
//!
//! ```text
//!                     namespace of the gateway it stands for
//!   wire -- veth out -- bridge -- tap -- [ eth0   charon, kernel ESP   eth1 ] -- tap -- bridge -- veth in -- client
//! ```
//!
//! Jobs travel over a virtio port, not over its network, so that a broken tunnel can be looked at
//! from inside.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::command::{Finished, Process, require, run, tail};
use crate::failure::{Failure, Outcome, ensure};
use crate::lab::Gateway;
use crate::netns::Namespace;
use crate::spec::Tunnel;
use crate::strongswan::{self, connections};
use crate::topology::{Family, Network, Side};
use crate::wait::until;

/// Emulation shares the machine with the rest of the test run.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Fetching and unpacking a kernel package, once a machine.
const BUILD_LIMIT: Duration = Duration::from_secs(300);
/// What a job may take when nothing else is said.
const JOB_LIMIT: Duration = Duration::from_secs(20);

static NEXT_GUEST: AtomicU32 = AtomicU32::new(1);

/// A running guest. It is ended when dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: RefCell<Process>,
    port: RefCell<BufReader<UnixStream>>,
    folder: PathBuf,
    number: u32,
    kernel: String,
}

/// The Ethernet address of an interface of guest `number`.
fn mac(interface: usize, number: u32) -> [u8; 6] {
    let [.., high, low] = number.to_be_bytes();
    [0x52, 0x54, 0x70, u8::try_from(interface).unwrap_or(u8::MAX), high, low]
}

/// One network interface of a guest: `eth0`, `eth1` and so on in the order given.
#[derive(Debug, Clone, Copy)]
pub struct Interface<'a> {
    /// The bridge in the guest's namespace that it is attached to.
    pub bridge: &'a str,
    /// Addresses with prefix lengths.
    pub addresses: &'a [&'a str],
}

impl Guest {
    /// Boots a guest with these interfaces in `namespace`, and waits until it takes jobs. With a
    /// `tree`, which is what `make install` has written, its first process is systemd and the
    /// tree lies in its root.
    pub fn boot(
        namespace: &Namespace,
        interfaces: &[Interface<'_>],
        tree: Option<&Path>,
    ) -> Outcome<Self> {
        require("qemu-system-x86_64").map_err(|_| {
            Failure::new(
                "qemu-system-x86_64 is not installed: install the Debian package \
                 `qemu-system-x86` (scripts/install-deps test)",
            )
        })?;
        let image = image()?;
        let number = NEXT_GUEST.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("pt-{}-guest{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let socket = folder.join("port");
        let (initrd, memory) = match tree {
            None => (image.join("initrd"), 512),
            Some(tree) => (with_systemd(image, tree, &folder.join("initrd"))?, 1024),
        };

        let mut argv: Vec<String> =
            namespace.inside(&["qemu-system-x86_64"]).into_iter().map(str::to_owned).collect();
        let mut add = |words: &str| argv.extend(words.split(' ').map(str::to_owned));
        add(&format!("-accel tcg,thread=multi -cpu max -m {memory} -nodefaults -no-user-config"));
        add("-display none -no-reboot -device virtio-serial-pci -device virtio-rng-pci");
        add("-device virtserialport,chardev=jobs,name=postern.job");
        add(&format!("-chardev socket,id=jobs,path={},server=on,wait=off", socket.display()));
        add(&format!("-serial file:{}", folder.join("console").display()));
        add(&format!("-kernel {}", image.join("vmlinuz").display()));
        add(&format!("-initrd {}", initrd.display()));
        for (index, interface) in interfaces.iter().enumerate() {
            let tap = format!("tap{number}-{index}");
            namespace.ip_lines(&format!(
                "tuntap add {tap} mode tap
                 link set {tap} master {} up",
                interface.bridge
            ))?;
            add(&format!("-netdev tap,id=net{index},ifname={tap},script=no,downscript=no"));
            let [a, b, c, d, e, f] = mac(index, number);
            add(&format!(
                "-device virtio-net-pci,netdev=net{index},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
            ));
        }
        // The kernel's command line is one word to qemu.
        argv.push("-append".to_owned());
        argv.push("console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on".to_owned());
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let mut qemu = Process::start("the guest", &argv, &[], &folder.join("qemu.log"))?;

        let stream = until("the guest's port", Duration::from_secs(20), || {
            qemu.must_run().map_err(|failure| failure.to_string())?;
            UnixStream::connect(&socket).map_err(|error| error.to_string())
        })?;
        stream.set_read_timeout(Some(BOOT_LIMIT))?;
        stream.set_write_timeout(Some(BOOT_LIMIT))?;
        let mut guest = Self {
            qemu: RefCell::new(qemu),
            port: RefCell::new(BufReader::new(stream)),
            folder,
            number,
            kernel: String::new(),
        };
        let hello = guest.line().map_err(|failure| guest.explain("did not boot", &failure))?;
        guest.kernel = hello
            .strip_prefix("ready ")
            .ok_or_else(|| Failure::new(format!("the guest greeted with `{hello}`")))?
            .to_owned();
        guest.set_up(interfaces)?;
        Ok(guest)
    }

    /// Puts a guest in the place of one gateway of a scenario: it takes over the gateway's
    /// addresses on both sides, its forwarding and its default routes.
    pub fn instead_of(network: &Network, side: Side) -> Outcome<Self> {
        Self::in_place(network, side, None)
    }

    /// The same with systemd and what `make install` has written to `tree`.
    pub fn with_service(network: &Network, side: Side, tree: &Path) -> Outcome<Self> {
        Self::in_place(network, side, Some(tree))
    }

    fn in_place(network: &Network, side: Side, tree: Option<&Path>) -> Outcome<Self> {
        let namespace = network.gateway(side);
        for interface in ["out", "in"] {
            namespace.ip_lines(&format!(
                "addr flush dev {interface} scope global
                 link add name br-{interface} type bridge forward_delay 0 mcast_snooping 0
                 link set {interface} master br-{interface}
                 link set br-{interface} up"
            ))?;
        }
        let with = |address: String, length: u8| format!("{address}/{length}");
        let outer =
            [with(network.outer(side, Family::V4), 24), with(network.outer(side, Family::V6), 64)];
        let inner = [
            with(network.gateway_inner(side, Family::V4), 16),
            with(network.gateway_inner(side, Family::V6), 48),
        ];
        let guest = Self::boot(
            namespace,
            &[
                Interface { bridge: "br-out", addresses: &[&outer[0], &outer[1]] },
                Interface { bridge: "br-in", addresses: &[&inner[0], &inner[1]] },
            ],
            tree,
        )?;
        let mut routes = String::from(
            "set -e\n\
             echo 1 >/proc/sys/net/ipv4/ip_forward\n\
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding\n",
        );
        for family in [Family::V4, Family::V6] {
            // Writing to a string cannot fail.
            let _ =
                writeln!(routes, "ip route add default via {}", network.seen(side.other(), family));
        }
        guest.must(&routes)?;
        Ok(guest)
    }

    /// The Ethernet address of `eth0` (outside) or `eth1` (inside).
    pub fn mac(&self, interface: usize) -> [u8; 6] {
        mac(interface, self.number)
    }

    /// The release of its kernel, such as `6.1.0-56-cloud-amd64`.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Runs a shell script in it that has to succeed; returns what it printed.
    pub fn must(&self, script: &str) -> Outcome<String> {
        let finished = self.run(script, JOB_LIMIT)?;
        if finished.code == 0 {
            return Ok(finished.stdout);
        }
        Err(Failure::new(format!(
            "in the guest, a job ended with {}:\n{}\n--- it printed\n{}",
            finished.code, script, finished.stdout
        )))
    }

    /// Runs a shell script in it; both outputs come back as standard output.
    pub fn run(&self, script: &str, limit: Duration) -> Outcome<Finished> {
        self.job(script, limit).map_err(|failure| self.explain("did not do a job", &failure))
    }

    /// Puts a file into it; the folder has to be there.
    pub fn write(&self, path: &str, text: &str) -> Outcome {
        let mark = "end-of-file-of-the-host";
        self.must(&format!("cat >'{path}' <<'{mark}'\n{text}\n{mark}\n")).map(drop)
    }

    fn set_up(&self, interfaces: &[Interface<'_>]) -> Outcome {
        let mut script = String::from("set -e\necho 0 >/proc/sys/net/ipv6/conf/all/accept_dad\n");
        for (index, interface) in interfaces.iter().enumerate() {
            let _ = writeln!(
                script,
                "echo 0 >/proc/sys/net/ipv6/conf/eth{index}/accept_dad\nip link set eth{index} up"
            );
            for address in interface.addresses {
                let _ = writeln!(script, "ip address add {address} dev eth{index}");
            }
        }
        self.must(&script).map(drop)
    }

    /// Starts its charon with the kernel's ESP and these connections.
    pub fn charon(&self, tunnels: &[Tunnel], options: &strongswan::Options) -> Outcome {
        self.write("/etc/strongswan.conf", STRONGSWAN_CONF)?;
        self.write("/etc/swanctl/swanctl.conf", &connections(tunnels, options))?;
        self.must("charon-systemd >/tmp/charon.out 2>&1 &")?;
        self.must(
            "for look in $(seq 200); do\n\
               [ -S /run/charon.vici ] && swanctl --stats >/dev/null 2>&1 && break\n\
               usleep 50000\n\
             done\n\
             swanctl --load-all --noprompt || { cat /tmp/charon.log /tmp/charon.out; exit 1; }",
        )
        .map(drop)
    }

    /// Loads other connections into the running charon.
    pub fn reload(&self, tunnels: &[Tunnel], options: &strongswan::Options) -> Outcome {
        self.write("/etc/swanctl/swanctl.conf", &connections(tunnels, options))?;
        self.must("swanctl --load-all --clear --noprompt").map(drop)
    }

    /// Starts a child, and its tunnel if there is none.
    pub fn initiate(&self, tunnel: &str, child: &str) -> Outcome {
        self.must(&format!("swanctl --initiate --ike {tunnel} --child {child} --timeout 15"))
            .map(drop)
    }

    /// What its kernel knows of its SAs, counters included.
    pub fn xfrm_state(&self) -> Outcome<String> {
        self.must("ip -s xfrm state")
    }

    fn job(&self, script: &str, limit: Duration) -> Outcome<Finished> {
        {
            let mut port = self.port.borrow_mut();
            let stream = port.get_mut();
            stream.set_read_timeout(Some(limit + Duration::from_secs(20)))?;
            write!(stream, "{} {}\n{script}", limit.as_secs().max(1), script.len())?;
        }
        let head = self.line()?;
        let (code, length) = head
            .split_once(' ')
            .and_then(|(code, length)| Some((code.parse().ok()?, length.parse().ok()?)))
            .ok_or_else(|| Failure::new(format!("it answered `{head}`")))?;
        let mut text = vec![0; length];
        self.port.borrow_mut().read_exact(&mut text)?;
        let stdout = String::from_utf8_lossy(&text).into_owned();
        Ok(Finished { code, stdout, stderr: String::new() })
    }

    fn line(&self) -> Outcome<String> {
        let mut line = String::new();
        ensure(self.port.borrow_mut().read_line(&mut line)? > 0, || "it hung up".to_owned())?;
        Ok(line.trim_end().to_owned())
    }

    fn explain(&self, what: &str, failure: &Failure) -> Failure {
        let console = tail(&self.folder.join("console"), 20);
        let log = tail(&self.folder.join("qemu.log"), 5);
        Failure::new(format!("the guest {what}: {failure}\nconsole: {console}\nqemu: {log}"))
    }
}

impl Gateway for Guest {
    fn title(&self) -> String {
        format!("a guest with Linux {}", self.kernel)
    }

    fn diagnosis(&self) -> String {
        let script = "swanctl --list-sas; ip -s xfrm state | grep -v aead; ip xfrm policy\n\
                      grep -v '\t0$' /proc/net/xfrm_stat; tail -n 60 /tmp/charon.log\n\
                      postern sa; journalctl --no-pager -n 80; nft list ruleset";
        match self.run(script, JOB_LIMIT) {
            Ok(finished) => finished.stdout,
            Err(failure) => failure.to_string(),
        }
    }

    fn end(&self) {
        self.qemu.borrow_mut().kill();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
        // The folder only serves failure messages of a living guest.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The folder with the guest's kernel and root, built on first use.
fn image() -> Outcome<&'static Path> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/build-image");
        let built = run(&[&script.display().to_string()], BUILD_LIMIT)
            .map_err(|failure| failure.to_string())?;
        match (built.code, built.stdout.lines().last()) {
            (0, Some(folder)) => Ok(PathBuf::from(folder)),
            _ => Err(format!("the guest's image was not built:\n{}", built.text().trim())),
        }
    });
    image.as_deref().map_err(|text| Failure::new(text.clone()))
}

/// An initramfs with systemd and an installed Postern, made of the guest's image.
fn with_systemd(image: &Path, tree: &Path, initrd: &Path) -> Outcome<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/service-image");
    let words = [script.as_path(), image, tree, initrd].map(|path| path.display().to_string());
    let made = run(&words.each_ref().map(String::as_str), BUILD_LIMIT)?;
    ensure(made.code == 0, || format!("the image was not made: {}", made.text().trim()))?;
    Ok(initrd.to_owned())
}

/// charon with the kernel's ESP; no route of its own, the tests look at policies alone.
const STRONGSWAN_CONF: &str = "\
charon-systemd {
  load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey constraints kdf aes sha1 sha2 hmac gcm chapoly drbg curve25519 kernel-netlink socket-default vici
  retransmit_tries = 3
  retransmit_timeout = 2
  filelog {
    log {
      path = /tmp/charon.log
      default = 1
      flush_line = yes
    }
  }
  plugins {
    vici {
      socket = unix:///run/charon.vici
    }
  }
}
swanctl {
  load = pem pkcs1 pkcs8 x509 pubkey openssl random
  socket = unix:///run/charon.vici
}
";
