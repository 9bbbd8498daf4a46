//! Captures of outer interfaces, and the search for what must never be seen there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::command::Dialogue;
use crate::failure::{Failure, Outcome};
use crate::netns::Namespace;
use crate::packet::{Kind, Packet, find, read_pcap};
use crate::wait;

/// A running capture of one interface.
#[derive(Debug)]
pub struct Capture {
    namespace: String,
    interface: String,
    file: PathBuf,
    own: Vec<[u8; 6]>,
    tcpdump: Dialogue,
}

/// All packets of one interface.
#[derive(Debug)]
pub struct Captured {
    /// Namespace and interface.
    pub title: String,
    /// Ethernet addresses that the gateway sends from through this interface.
    pub own: Vec<[u8; 6]>,
    /// In the order of arrival.
    pub packets: Vec<Packet>,
}

impl Capture {
    /// Starts capturing packets in both directions and returns once it does. Packets that fit the
    /// wire are captured whole; of one that is still to be cut by the kernel (segmentation
    /// offload) the first segments are, each of which carries what the others do.
    pub fn start(namespace: &Namespace, interface: &str, file: &Path) -> Outcome<Self> {
        let path = file.display().to_string();
        let argv = namespace.inside(&[
            "nice",
            "-n",
            "-20",
            "tcpdump",
            "-i",
            interface,
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            "4096",
            "-B",
            "65536",
            "-Z",
            "root",
            "-w",
            &path,
        ]);
        crate::command::require("tcpdump")?;
        let address = format!("/sys/class/net/{interface}/address");
        let own = vec![mac(&namespace.must(&["cat", &address])?.stdout)?];
        let tcpdump = Dialogue::start("tcpdump", &argv, true)?;
        tcpdump.hear_about("listening on", Duration::from_secs(10))?;
        Ok(Self {
            namespace: namespace.name().to_owned(),
            interface: interface.to_owned(),
            file: file.to_owned(),
            own,
            tcpdump,
        })
    }

    /// The Ethernet addresses that the gateway sends from.
    pub fn own(&self) -> &[[u8; 6]] {
        &self.own
    }

    /// Somebody behind the interface, such as a guest, sends as the gateway too.
    pub fn add_own(&mut self, mac: [u8; 6]) {
        self.own.push(mac);
    }

    /// Reads what was captured so far, without ending the capture: everything that crossed the
    /// interface before this call.
    pub fn so_far(&self) -> Outcome<Captured> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mark = format!("capture mark {:016x}.", NEXT.fetch_add(1, Ordering::Relaxed));
        let tool = crate::postern::beside_the_tests("pt-mark")?.display().to_string();
        let argv = ["ip", "netns", "exec", &self.namespace, &tool, &self.interface, &mark];
        crate::command::must(&argv)?;
        // tcpdump writes each packet as it arrives, in order.
        let mut file = File::open(&self.file)?;
        let mut bytes = Vec::new();
        wait::until("the capture to catch up", Duration::from_secs(20), || {
            let before = bytes.len().saturating_sub(mark.len());
            file.read_to_end(&mut bytes).map_err(Failure::from)?;
            match find(bytes.get(before..).unwrap_or_default(), mark.as_bytes()) {
                Some(_) => Ok(()),
                None => Err(Failure::new(format!("{} octets", bytes.len()))),
            }
        })?;
        Ok(Captured { title: self.title(), own: self.own.clone(), packets: read_pcap(&bytes)? })
    }

    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.interface)
    }

    /// Ends the capture; fails when the kernel could not hand over every packet.
    pub fn finish(self) -> Outcome<Captured> {
        let captured = self.so_far()?;
        let said = self.tcpdump.finish("INT", Duration::from_secs(10))?;
        let whole = said.iter().any(|line| line.trim() == "0 packets dropped by kernel");
        if !whole {
            return Err(Failure::new(format!(
                "the capture of {} is not complete: {}",
                captured.title,
                said.join("; ")
            )));
        }
        Ok(captured)
    }
}

impl Captured {
    /// How many packets of each kind.
    pub fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        for packet in &self.packets {
            *kinds.entry(packet.kind).or_default() += 1;
        }
        kinds
    }

    /// How many packets of one kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.packets.iter().filter(|packet| packet.kind == kind).count()
    }

    /// How many octets in packets of one kind.
    pub fn octets(&self, kind: Kind) -> usize {
        let of_kind = self.packets.iter().filter(|packet| packet.kind == kind);
        of_kind.map(|packet| packet.length).sum()
    }

    /// Whether the gateway itself sent this packet, and not somebody on the link.
    pub fn sent(&self, packet: &Packet) -> bool {
        self.own.contains(&packet.sender)
    }

    /// The packets that carry these octets in clear.
    pub fn with(&self, needle: &[u8]) -> Vec<&Packet> {
        self.packets.iter().filter(|packet| find(&packet.bytes, needle).is_some()).collect()
    }
}

/// Reads `52:54:00:70:00:01`.
fn mac(text: &str) -> Outcome<[u8; 6]> {
    let octets: Option<Vec<u8>> =
        text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| Failure::new(format!("no Ethernet address: `{}`", text.trim())))
}
