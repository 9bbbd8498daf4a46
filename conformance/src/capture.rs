//! Captures of outer interfaces, and the search for what must never be seen there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::Dialogue;
use crate::failure::{Failure, Outcome};
use crate::netns::Namespace;
use crate::packet::{Kind, Packet, find, read_pcap};
use crate::wait;

/// A running capture of one interface.
#[derive(Debug)]
pub struct Capture {
    title: String,
    file: PathBuf,
    tcpdump: Dialogue,
}

/// All packets of one interface.
#[derive(Debug)]
pub struct Captured {
    /// Namespace and interface.
    pub title: String,
    /// In the order of arrival.
    pub packets: Vec<Packet>,
}

impl Capture {
    /// Starts capturing whole packets, in both directions, and returns once it does.
    pub fn start(namespace: &Namespace, interface: &str, file: &Path) -> Outcome<Self> {
        let title = format!("{}/{interface}", namespace.name());
        let path = file.display().to_string();
        let argv = namespace.inside(&[
            "tcpdump",
            "-i",
            interface,
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-B",
            "65536",
            "-Z",
            "root",
            "-w",
            &path,
        ]);
        crate::command::require("tcpdump")?;
        let tcpdump = Dialogue::start("tcpdump", &argv, true)?;
        tcpdump.hear_about("listening on", Duration::from_secs(10))?;
        Ok(Self { title, file: file.to_owned(), tcpdump })
    }

    /// Reads what was captured so far, without ending the capture.
    pub fn so_far(&self) -> Outcome<Captured> {
        // tcpdump writes each packet as it arrives; a file that has stopped growing is complete.
        let mut size = u64::MAX;
        wait::until("the capture to settle", Duration::from_secs(5), || {
            let now = fs::metadata(&self.file).map_or(0, |meta| meta.len());
            let settled = now == size;
            size = now;
            if settled { Ok(()) } else { Err(format!("{now} octets, growing")) }
        })
        .or_else(|failure| if size > 24 { Ok(()) } else { Err(failure) })?;
        let packets = read_pcap(&fs::read(&self.file)?)?;
        Ok(Captured { title: self.title.clone(), packets })
    }

    /// Ends the capture; fails when the kernel could not hand over every packet.
    pub fn finish(self) -> Outcome<Captured> {
        let captured = self.so_far()?;
        let said = self.tcpdump.finish("INT", Duration::from_secs(10))?;
        let whole = said.iter().any(|line| line.trim() == "0 packets dropped by kernel");
        if !whole {
            return Err(Failure::new(format!(
                "the capture of {} is not complete: {}",
                self.title,
                said.join("; ")
            )));
        }
        // What arrived between the look and the signal counts too.
        let packets = read_pcap(&fs::read(&self.file)?)?;
        Ok(Captured { packets, ..captured })
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

    /// The packets that carry these octets in clear.
    pub fn with(&self, needle: &[u8]) -> Vec<&Packet> {
        self.packets.iter().filter(|packet| find(&packet.bytes, needle).is_some()).collect()
    }
}
