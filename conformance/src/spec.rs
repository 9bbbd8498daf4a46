//! A tunnel, said once and neutrally; each gateway renders its own configuration from it.

/// Who starts a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// This gateway does, on its own and for ever.
    AlwaysOn,
    /// This gateway waits for the other one.
    Passive,
}

/// One end of a tunnel.
#[derive(Debug, Clone)]
pub struct End {
    /// The outer address; `any` for an unknown one; several with commas between them; empty for
    /// "not said", which only Postern's own end may be.
    pub address: String,
    /// The identity.
    pub id: String,
}

/// A tunnel as one of its gateways sees it.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// Who starts it.
    pub start: Start,
    /// This gateway.
    pub local: End,
    /// The other gateway.
    pub remote: End,
    /// The pre-shared key.
    pub psk: String,
    /// IKE proposals in strongSwan's words.
    pub ike: Vec<String>,
    /// Seconds until this gateway rekeys the IKE SA; 0 for "not during this scenario".
    pub ike_rekey_s: u32,
    /// Seconds of silence before this gateway asks whether the other is there; 0 for never.
    pub dpd_s: u32,
    /// Whether this gateway insists on ESP in UDP.
    pub force_udp: bool,
    /// The children.
    pub children: Vec<Child>,
}

/// A child as one of its gateways sees it.
#[derive(Debug, Clone)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Local selectors.
    pub local: Vec<String>,
    /// Remote selectors.
    pub remote: Vec<String>,
    /// ESP proposals in strongSwan's words; none for the defaults (`Postern` only).
    pub esp: Vec<String>,
    /// Seconds until this gateway rekeys it; 0 for "not during this scenario".
    pub rekey_s: u32,
    /// Packets after which it is rekeyed; 0 for never (`Postern` only).
    pub rekey_packets: u32,
    /// Selectors inside the networks that stay clear (`Postern` only).
    pub bypass: Vec<String>,
}

/// The IKE proposal of scenarios that are about something else.
pub const IKE: &str = "aes256gcm16-prfsha384-ecp384";
/// The ESP proposal of scenarios that are about something else.
pub const ESP: &str = "aes256gcm16-noesn";

impl Child {
    /// A child between two networks, with the usual proposal.
    pub fn new(name: &str, local: &str, remote: &str) -> Self {
        Self {
            name: name.to_owned(),
            local: vec![local.to_owned()],
            remote: vec![remote.to_owned()],
            esp: vec![ESP.to_owned()],
            rekey_s: 0,
            rekey_packets: 0,
            bypass: Vec::new(),
        }
    }
}

impl Tunnel {
    /// The same tunnel as the other gateway sees it, started by the other one if this one waits
    /// and the other way round. What is one gateway's own business (rekeying, DPD, bypass, ESP in
    /// UDP) is left at its default.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        let start = match self.start {
            Start::AlwaysOn => Start::Passive,
            Start::Passive => Start::AlwaysOn,
        };
        let children = self.children.iter().map(|child| Child {
            local: child.remote.clone(),
            remote: child.local.clone(),
            rekey_s: 0,
            rekey_packets: 0,
            bypass: Vec::new(),
            ..child.clone()
        });
        Self {
            start,
            local: self.remote.clone(),
            remote: self.local.clone(),
            ike_rekey_s: 0,
            dpd_s: 0,
            force_udp: false,
            children: children.collect(),
            ..self.clone()
        }
    }
}
