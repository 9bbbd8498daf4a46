//! A guest with the distribution's kernel and strongSwan, as a peer whose ESP is not ours.
//!
//! The machine that runs the tests need not have ESP in its kernel; strongSwan's user-space ESP
//! has neither ESN nor protocol 50. The guest has both. It is emulated (no KVM), boots in a few
//! seconds and is a functional peer, not a fast one.
//!
//! ```text
//!   namespace of the gateway            namespace of the peer
//!   posternd -- veth ------------------ bridge -- tap -- qemu [ eth0  charon, kernel ESP  dummy0 ]
//! ```
//!
//! Jobs travel over a virtio port, not over its network, so that a broken tunnel can be looked at
//! from inside.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::command::{Finished, Process, require, run, tail};
use crate::failure::{Failure, Outcome};
use crate::netns::Namespace;
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
    qemu: Process,
    port: BufReader<UnixStream>,
    folder: PathBuf,
    kernel: String,
}

/// What a guest's interface and its inner network are called, once [`Guest::network`] ran.
#[derive(Debug, Clone, Copy)]
pub struct Addresses<'a> {
    /// Addresses with prefix lengths of `eth0`, the wire side.
    pub outer: &'a [&'a str],
    /// Addresses with prefix lengths of `dummy0`, the protected side.
    pub inner: &'a [&'a str],
    /// Default gateways: the way back to the peer's protected networks.
    pub gateways: &'a [&'a str],
}

impl Guest {
    /// Boots a guest whose `eth0` is attached to `bridge` in `namespace`, and waits for it.
    pub fn boot(namespace: &Namespace, bridge: &str) -> Outcome<Self> {
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

        let tap = format!("tap{number}");
        namespace.ip_lines(&format!(
            "tuntap add {tap} mode tap\n link set {tap} master {bridge}\n link set {tap} up"
        ))?;

        let socket = folder.join("port");
        let kernel = image.join("vmlinuz").display().to_string();
        let initrd = image.join("initrd").display().to_string();
        let console = format!("file:{}", folder.join("console").display());
        let netdev = format!("tap,id=wire,ifname={tap},script=no,downscript=no");
        let device = format!("virtio-net-pci,netdev=wire,mac=52:54:00:70:74:{number:02x}");
        let chardev = format!("socket,id=jobs,path={},server=on,wait=off", socket.display());
        let argv = namespace.inside(&[
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-m",
            "512",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-kernel",
            &kernel,
            "-initrd",
            &initrd,
            "-append",
            "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on",
            "-serial",
            &console,
            "-netdev",
            &netdev,
            "-device",
            &device,
            "-device",
            "virtio-serial-pci",
            "-chardev",
            &chardev,
            "-device",
            "virtserialport,chardev=jobs,name=postern.job",
            "-device",
            "virtio-rng-pci",
        ]);
        let mut qemu = Process::start("the guest", &argv, &[], &folder.join("qemu.log"))?;

        let stream = until("the guest's port", Duration::from_secs(20), || {
            qemu.must_run().map_err(|failure| failure.to_string())?;
            UnixStream::connect(&socket).map_err(|error| error.to_string())
        })?;
        stream.set_read_timeout(Some(BOOT_LIMIT))?;
        stream.set_write_timeout(Some(BOOT_LIMIT))?;
        let mut guest = Self { qemu, port: BufReader::new(stream), folder, kernel: String::new() };
        let hello = guest.line().map_err(|failure| guest.explain("did not boot", &failure))?;
        guest.kernel = hello
            .strip_prefix("ready ")
            .ok_or_else(|| Failure::new(format!("the guest greeted with `{hello}`")))?
            .to_owned();
        Ok(guest)
    }

    /// The release of its kernel, such as `6.1.0-56-cloud-amd64`.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Runs a shell script in it that has to succeed; returns what it printed.
    pub fn must(&mut self, script: &str) -> Outcome<String> {
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
    pub fn run(&mut self, script: &str, limit: Duration) -> Outcome<Finished> {
        self.job(script, limit).map_err(|failure| self.explain("did not do a job", &failure))
    }

    /// Puts a file into it; the folder has to be there.
    pub fn write(&mut self, path: &str, text: &str) -> Outcome {
        let mark = "end-of-file-of-the-host";
        self.must(&format!("cat >'{path}' <<'{mark}'\n{text}\n{mark}\n")).map(drop)
    }

    /// Brings up its interfaces; forwarding stays off, the inner addresses are its own.
    pub fn network(&mut self, addresses: Addresses<'_>) -> Outcome {
        let mut script = String::from(
            "set -e\n\
             echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad\n\
             echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad\n\
             echo 0 >/proc/sys/net/ipv6/conf/dummy0/accept_dad\n\
             ip link set eth0 up\n\
             ip link set dummy0 up\n",
        );
        for address in addresses.outer {
            script.push_str(&format!("ip address add {address} dev eth0\n"));
        }
        for address in addresses.inner {
            script.push_str(&format!("ip address add {address} dev dummy0\n"));
        }
        for gateway in addresses.gateways {
            script.push_str(&format!("ip route add default via {gateway}\n"));
        }
        self.must(&script).map(drop)
    }

    /// Starts its charon with the kernel's ESP and loads `swanctl_conf`.
    pub fn charon(&mut self, swanctl_conf: &str) -> Outcome {
        self.write("/etc/strongswan.conf", STRONGSWAN_CONF)?;
        self.write("/etc/swanctl/swanctl.conf", swanctl_conf)?;
        self.must("charon-systemd >/tmp/charon.log 2>&1 &")?;
        self.must(
            "for look in $(seq 200); do\n\
               [ -S /run/charon.vici ] && swanctl --stats >/dev/null 2>&1 && break\n\
               usleep 50000\n\
             done\n\
             swanctl --load-all --noprompt || { cat /tmp/charon.log; exit 1; }",
        )
        .map(drop)
    }

    /// Loads another `swanctl.conf` into the running charon.
    pub fn reload(&mut self, swanctl_conf: &str) -> Outcome {
        self.write("/etc/swanctl/swanctl.conf", swanctl_conf)?;
        self.must("swanctl --load-all --clear --noprompt").map(drop)
    }

    /// The end of charon's log, for failure messages.
    pub fn charon_log(&mut self) -> String {
        match self.run("tail -n 60 /tmp/charon.log", JOB_LIMIT) {
            Ok(finished) => finished.stdout,
            Err(failure) => failure.to_string(),
        }
    }

    fn job(&mut self, script: &str, limit: Duration) -> Outcome<Finished> {
        let stream = self.port.get_mut();
        stream.set_read_timeout(Some(limit + Duration::from_secs(20)))?;
        write!(stream, "{} {}\n{script}", limit.as_secs().max(1), script.len())?;
        let head = self.line()?;
        let (code, length) = head
            .split_once(' ')
            .and_then(|(code, length)| Some((code.parse().ok()?, length.parse().ok()?)))
            .ok_or_else(|| Failure::new(format!("it answered `{head}`")))?;
        let mut text = vec![0; length];
        self.port.read_exact(&mut text)?;
        let stdout = String::from_utf8_lossy(&text).into_owned();
        Ok(Finished { code, stdout, stderr: String::new() })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.port.read_line(&mut line)? == 0 {
            return Err(Failure::new("it hung up"));
        }
        Ok(line.trim_end().to_owned())
    }

    fn explain(&mut self, what: &str, failure: &Failure) -> Failure {
        let console = tail(&self.folder.join("console"), 20);
        let log = tail(self.qemu.log(), 5);
        Failure::new(format!("the guest {what}: {failure}\nconsole: {console}\nqemu: {log}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.qemu.kill();
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
