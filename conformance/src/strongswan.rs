//! A private strongSwan: Debian's charon-systemd with its user-space ESP (kernel-libipsec), with
//! its own configuration, socket and log, in a namespace.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::command::{Finished, Process, require, run, tail};
use crate::failure::{Failure, Outcome, ensure};
use crate::lab::Gateway;
use crate::netns::Namespace;
use crate::raw;
use crate::spec::{Start, Tunnel};
use crate::wait;

const CHARON: &str = "/usr/sbin/charon-systemd";

/// Options for a strongSwan that writes the keys of its Child SAs into its log.
pub const KEYS_LOGGED: &str = "filelog {\n f {\n chd = 4\n }\n }";

/// What differs from the defaults of Debian's package.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines of strongswan.conf inside `charon-systemd { }`.
    pub charon: String,
    /// Lines inside `connections.<name> { }` of every connection.
    pub connection: String,
    /// Lines inside `children.<name> { }` of every child.
    pub child: String,
    /// Whether the selectors may cover the peers themselves (host to host).
    pub hosts: bool,
}

/// One strongSwan.
#[derive(Debug)]
pub struct Strongswan {
    namespace: String,
    folder: PathBuf,
    process: RefCell<Option<Process>>,
}

impl Strongswan {
    /// Writes the configuration, starts the daemon and loads the connections.
    pub fn start(
        namespace: &Namespace,
        folder: &Path,
        tunnels: &[Tunnel],
        options: &Options,
    ) -> Outcome<Self> {
        let this = Self {
            namespace: namespace.name().to_owned(),
            folder: folder.to_owned(),
            process: RefCell::new(None),
        };
        require(CHARON)?;
        require("swanctl")?;
        let plugin = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";
        ensure(Path::new(plugin).exists(), || {
            "strongSwan's kernel-libipsec plugin is not installed: install the Debian package \
             `libcharon-extra-plugins` (scripts/install-deps test)"
                .to_owned()
        })?;
        for sub in [
            "x509", "x509ca", "x509crl", "x509aa", "x509ac", "x509ocsp", "pubkey", "private",
            "rsa", "ecdsa", "pkcs8", "pkcs12", "bliss", "conf.d",
        ] {
            fs::create_dir_all(folder.join("swanctl").join(sub))?;
        }
        fs::write(folder.join("strongswan.conf"), this.daemon_conf(options))?;
        this.write_connections(tunnels, options)?;
        this.spawn()?;
        Ok(this)
    }

    /// Starts the daemon again after [`Strongswan::kill`], with the same configuration.
    pub fn spawn(&self) -> Outcome {
        // A killed daemon leaves its socket behind; nobody may take it for the new one.
        let _ = fs::remove_file(self.socket());
        let conf = self.folder.join("strongswan.conf").display().to_string();
        // A peer that starves on a busy machine loses packets in its own socket; it is not what
        // is judged here.
        let argv = ["ip", "netns", "exec", &self.namespace, "nice", "-n", "-20", CHARON];
        let process = Process::start(
            "charon-systemd",
            &argv,
            &[("STRONGSWAN_CONF", &conf)],
            &self.folder.join("charon.out"),
        )?;
        *self.process.borrow_mut() = Some(process);
        wait::until("strongSwan's VICI socket", Duration::from_secs(20), || {
            if let Some(process) = self.process.borrow_mut().as_mut() {
                process.must_run()?;
            }
            UnixStream::connect(self.socket()).map(drop).map_err(Failure::from)
        })?;
        // The TUN device's queue is shorter than a moment without a processor on a busy machine.
        let lengthen = ["ip", "-n", &self.namespace, "link", "set", "ipsec0", "txqueuelen", "5000"];
        crate::command::must(&lengthen)?;
        self.load()
    }

    /// Replaces the connections; [`Strongswan::load`] makes them effective.
    pub fn write_connections(&self, tunnels: &[Tunnel], options: &Options) -> Outcome {
        let file = self.folder.join("swanctl/swanctl.conf");
        Ok(fs::write(file, connections(tunnels, options))?)
    }

    /// Loads the connections and secrets.
    pub fn load(&self) -> Outcome {
        let done = self.swanctl(&["--load-all", "--noprompt"])?;
        ensure(done.code == 0, || format!("strongSwan refused its configuration: {}", done.text()))
    }

    /// Runs `swanctl` against this daemon.
    pub fn swanctl(&self, arguments: &[&str]) -> Outcome<Finished> {
        let uri = format!("unix://{}", self.socket().display());
        let conf = format!("STRONGSWAN_CONF={}", self.folder.join("strongswan.conf").display());
        let folder = format!("SWANCTL_DIR={}", self.folder.join("swanctl").display());
        let mut argv = vec!["env", &conf, &folder, "swanctl"];
        argv.extend_from_slice(arguments);
        argv.extend_from_slice(&["--uri", &uri]);
        run(&argv, Duration::from_secs(30))
    }

    /// Runs `swanctl` and fails when it says no.
    pub fn must_swanctl(&self, arguments: &[&str]) -> Outcome<Finished> {
        let done = self.swanctl(arguments)?;
        ensure(done.code == 0, || {
            format!("swanctl {} ended with {}: {}", arguments.join(" "), done.code, done.text())
        })?;
        Ok(done)
    }

    /// Starts a child, and its tunnel if there is none.
    pub fn initiate(&self, tunnel: &str, child: &str) -> Outcome<Finished> {
        self.swanctl(&["--initiate", "--ike", tunnel, "--child", child, "--timeout", "15"])
    }

    /// All IKE SAs: (connection name, content), in the order listed.
    pub fn ike_sas(&self) -> Outcome<Vec<(String, Map<String, Value>)>> {
        let listed = self.swanctl(&["--list-sas", "--raw"])?;
        let mut sas = Vec::new();
        for message in listed.stdout.lines().filter_map(raw::parse) {
            if message.name == "list-sa" {
                for (name, content) in message.content {
                    if let Value::Object(content) = content {
                        sas.push((name, content));
                    }
                }
            }
        }
        Ok(sas)
    }

    /// All installed children: (name, content), newest last.
    pub fn children(&self) -> Outcome<Vec<(String, Value)>> {
        let mut children = Vec::new();
        for (_, ike_sa) in self.ike_sas()? {
            let Some(Value::Object(sas)) = ike_sa.get("child-sas") else { continue };
            for child in sas.values() {
                if child.get("state").and_then(Value::as_str) == Some("INSTALLED") {
                    let name = child.get("name").and_then(Value::as_str).unwrap_or_default();
                    children.push((name.to_owned(), child.clone()));
                }
            }
        }
        Ok(children)
    }

    /// How many datagrams the kernel dropped because the daemon had not read its sockets in time.
    pub fn missed(&self) -> Outcome<u64> {
        let inside = ["ip", "netns", "exec", &self.namespace, "grep", "^Udp:", "/proc/net/snmp"];
        let shown = crate::command::must(&inside)?.stdout;
        // One line of names, one of numbers.
        let mut lines = shown.lines().map(str::split_whitespace);
        let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else {
            return Err(Failure::new(format!("no UDP counters: {shown}")));
        };
        let found = names.zip(numbers).find(|(name, _)| *name == "RcvbufErrors");
        found
            .and_then(|(_, number)| number.parse().ok())
            .ok_or_else(|| Failure::new(format!("no RcvbufErrors: {shown}")))
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&self) {
        // Dropping the process kills it.
        drop(self.process.borrow_mut().take());
    }

    /// Stops it where it is: it neither sends nor answers.
    pub fn freeze(&self) -> Outcome {
        self.signal("STOP")
    }

    /// Lets it go on after [`Strongswan::freeze`].
    pub fn thaw(&self) -> Outcome {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Outcome {
        match self.process.borrow().as_ref() {
            Some(process) => process.signal(signal),
            None => Err(Failure::new("strongSwan is not started")),
        }
    }

    /// Ends it as `systemctl stop` does: it deletes its SAs first.
    pub fn stop(&self) -> Outcome {
        match self.process.borrow_mut().take() {
            Some(mut process) => process.stop("TERM", Duration::from_secs(10)).map(drop),
            None => Ok(()),
        }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("charon.log")).unwrap_or_default()
    }

    /// The key of the newest Child SA for what it sends, with its salt, in hexadecimal. It is in
    /// the log with [`KEYS_LOGGED`] among the options.
    pub fn sending_key(&self, initiator: bool) -> Outcome<String> {
        let role = if initiator { "initiator" } else { "responder" };
        let log = self.log();
        let (_, behind) = log
            .rsplit_once(&format!("encryption {role} key => "))
            .ok_or_else(|| Failure::new("strongSwan has logged no key"))?;
        let mut lines = behind.lines();
        let length: usize = lines
            .next()
            .and_then(|head| head.split_whitespace().next()?.parse().ok())
            .unwrap_or_default();
        // Sixteen octets a line, behind the offset and a colon.
        let mut key = String::new();
        for line in lines.take(length.div_ceil(16)) {
            let octets = line.split_once("[CHD]").and_then(|(_, rest)| rest.split_once(": "));
            let octets = octets.map_or("", |(_, octets)| octets);
            let left = (length - key.len() / 2).min(16);
            key.extend(octets.split_whitespace().take(left));
        }
        ensure(length > 0 && key.len() == length * 2, || format!("no key of {length}: `{key}`"))?;
        Ok(key)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("charon.vici")
    }

    fn daemon_conf(&self, options: &Options) -> String {
        let socket = self.socket().display().to_string();
        let log = self.folder.join("charon.log").display().to_string();
        // With selectors that cover the peers, IKE and ESP-in-UDP packets carry a mark that
        // strongSwan's own routing table ignores.
        let hosts = if options.hosts {
            "kernel-libipsec { allow_peer_ts = yes }
             kernel-netlink { fwmark = !0x42 }
             socket-default { fwmark = 0x42 }"
        } else {
            ""
        };
        format!(
            "charon-systemd {{
  load = random nonce openssl aesni aes sha1 sha2 hmac kdf gcm chapoly curve25519 pem pkcs1 pkcs8 \
         x509 pubkey constraints kernel-libipsec kernel-netlink socket-default vici
  plugins {{
    vici {{
      socket = unix://{socket}
    }}
    {hosts}
  }}
  filelog {{
    f {{
      path = {log}
      default = 1
      time_format = %s
      time_add_ms = yes
      flush_line = yes
    }}
  }}
  {}
}}
swanctl {{
  load = random openssl
}}
",
            options.charon
        )
    }
}

impl Gateway for Strongswan {
    fn title(&self) -> String {
        format!("strongSwan in {}", self.namespace)
    }

    fn diagnosis(&self) -> String {
        let sas = match self.swanctl(&["--list-sas"]) {
            Ok(listed) => listed.text(),
            Err(failure) => failure.to_string(),
        };
        let inside =
            ["ip", "netns", "exec", &self.namespace, "grep", "-h", "^Udp", "/proc/net/snmp"];
        let sockets = run(&inside, Duration::from_secs(5))
            .map_or_else(|failure| failure.to_string(), |done| done.stdout);
        format!(
            "{sas}\n-- its sockets --\n{sockets}-- log --\n{}\n{}",
            tail(&self.folder.join("charon.log"), 60),
            tail(&self.folder.join("charon.out"), 5)
        )
    }

    fn end(&self) {
        self.kill();
    }
}

/// swanctl.conf for these tunnels.
pub(crate) fn connections(tunnels: &[Tunnel], options: &Options) -> String {
    let mut conf = String::from("connections {\n");
    let mut secrets = String::from("secrets {\n");
    for tunnel in tunnels {
        // Writing to a string cannot fail.
        let _ = connection(&mut conf, tunnel, options);
        let _ = write!(
            secrets,
            "  ike-{} {{\n    id-1 = {}\n    id-2 = {}\n    secret = \"{}\"\n  }}\n",
            tunnel.name, tunnel.local.id, tunnel.remote.id, tunnel.psk
        );
    }
    format!("{conf}}}\n{secrets}}}\n")
}

fn connection(conf: &mut String, tunnel: &Tunnel, options: &Options) -> std::fmt::Result {
    let address = |text: &str| if text == "any" { "%any".to_owned() } else { text.to_owned() };
    writeln!(conf, "  {} {{\n    version = 2", tunnel.name)?;
    writeln!(conf, "    local_addrs = {}", address(&tunnel.local.address))?;
    writeln!(conf, "    remote_addrs = {}", address(&tunnel.remote.address))?;
    writeln!(conf, "    proposals = {}", tunnel.ike.join(","))?;
    writeln!(conf, "    rekey_time = {}s", tunnel.ike_rekey_s)?;
    if tunnel.dpd_s > 0 {
        writeln!(conf, "    dpd_delay = {}s", tunnel.dpd_s)?;
    }
    if tunnel.force_udp {
        writeln!(conf, "    encap = yes")?;
    }
    if tunnel.start == Start::AlwaysOn {
        writeln!(conf, "    keyingtries = 0")?;
    }
    writeln!(conf, "    {}", options.connection)?;
    writeln!(conf, "    local {{\n      auth = psk\n      id = {}\n    }}", tunnel.local.id)?;
    writeln!(conf, "    remote {{\n      auth = psk\n      id = {}\n    }}", tunnel.remote.id)?;
    writeln!(conf, "    children {{")?;
    for child in &tunnel.children {
        writeln!(conf, "      {} {{", child.name)?;
        writeln!(conf, "        local_ts = {}", child.local.join(","))?;
        writeln!(conf, "        remote_ts = {}", child.remote.join(","))?;
        writeln!(conf, "        esp_proposals = {}", child.esp.join(","))?;
        writeln!(conf, "        rekey_time = {}s", child.rekey_s)?;
        writeln!(conf, "        {}", options.child)?;
        writeln!(conf, "      }}")?;
    }
    writeln!(conf, "    }}\n  }}")
}
