//! Sealing: inner packets to ESP packets.

use alloc::sync::Arc;
use core::{fmt, net::SocketAddr};

use crypto::aead::{Engines, IvGenerator, SealJob, Suffix, SuiteKey};
use sa_store::{
    DfPolicy, Direction, DscpPolicy, EcnPolicy, Encapsulation, Esn, EspSpi, Mode, SaRecord,
    TrafficSelector,
    live::{DropReason, LimitReached, LiveSa},
};
use zeroize::Zeroize;

use crate::{
    BuildError, CHUNK, ESP_HEADER_LEN,
    ecn::{self, Ecn},
    inner::{self, IpHeader, protocol},
    outer::OuterTemplate,
    trailer,
    udp::UDP_HEADER_LEN,
};

/// Whether a seal writes the outer headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutputForm {
    /// From the SPI on: for sockets that add IP (and UDP) headers. [`Sealed`] says what they
    /// should hold. The default.
    #[default]
    Payload,
    /// The whole outer packet.
    Packet,
}

/// What becomes of the hop limit of inner packets (RFC 4301 §5.1.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InnerHops {
    /// Kept: whoever brought the packet (the kernel that routed it into a TUN) has forwarded it
    /// already. The default.
    #[default]
    Keep,
    /// Decremented: the data plane itself forwards. A packet without a hop left is dropped.
    Decrement,
}

/// What a record does not say about an outbound SA. The seed is wiped on drop.
#[derive(Clone)]
pub struct OutboundOptions {
    /// Fresh random octets; CBC suites make unpredictable IVs from them.
    pub iv_seed: [u8; 16],
    /// Whether outer headers are written.
    pub output: OutputForm,
    /// Hop limit of the outer header.
    pub outer_hop_limit: u8,
    /// Hop limit of the inner header.
    pub inner_hops: InnerHops,
}

impl OutboundOptions {
    /// The defaults, and a seed.
    #[must_use]
    pub const fn new(iv_seed: [u8; 16]) -> Self {
        Self {
            iv_seed,
            output: OutputForm::Payload,
            outer_hop_limit: 64,
            inner_hops: InnerHops::Keep,
        }
    }
}

impl Drop for OutboundOptions {
    fn drop(&mut self) {
        self.iv_seed.zeroize();
    }
}

/// Never shows the seed.
impl fmt::Debug for OutboundOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundOptions")
            .field("output", &self.output)
            .field("outer_hop_limit", &self.outer_hop_limit)
            .field("inner_hops", &self.inner_hops)
            .finish_non_exhaustive()
    }
}

/// An outbound SA, ready to seal. Immutable; cheap to clone.
#[derive(Clone, Debug)]
pub struct OutboundSa {
    live: Arc<LiveSa>,
    key: Arc<SuiteKey>,
    cbc_iv: Option<Arc<IvGenerator>>,
    spi: EspSpi,
    esn: Esn,
    encapsulation: Encapsulation,
    outer: OuterTemplate,
    output: OutputForm,
    outer_hop_limit: u8,
    inner_hops: InnerHops,
    dscp: DscpPolicy,
    ecn: EcnPolicy,
    df: DfPolicy,
    local_selectors: Arc<[TrafficSelector]>,
    remote_selectors: Arc<[TrafficSelector]>,
}

impl OutboundSa {
    /// From a record and the live state that belongs to it.
    ///
    /// # Errors
    /// When the record is not outbound, is of transport mode, mixes outer address families or
    /// has key material that does not fit its suite.
    pub fn new(
        record: &SaRecord,
        live: Arc<LiveSa>,
        engines: &Engines,
        options: &OutboundOptions,
    ) -> Result<Self, BuildError> {
        if record.direction != Direction::Outbound {
            return Err(BuildError::Direction);
        }
        if record.mode != Mode::Tunnel {
            return Err(BuildError::TransportMode);
        }
        let suite = record.transform.suite;
        let cbc_iv = if suite.cipher().is_aead() {
            None
        } else {
            Some(Arc::new(IvGenerator::new(&options.iv_seed)?))
        };
        Ok(Self {
            live,
            key: Arc::new(engines.key(suite, &record.keys)?),
            cbc_iv,
            spi: record.spi,
            esn: record.transform.esn,
            encapsulation: record.encapsulation,
            outer: OuterTemplate::new(
                record.local,
                record.remote,
                record.encapsulation,
                options.outer_hop_limit,
            )?,
            output: options.output,
            outer_hop_limit: options.outer_hop_limit,
            inner_hops: options.inner_hops,
            dscp: record.dscp,
            ecn: record.ecn,
            df: record.df,
            local_selectors: record.local_selectors.as_slice().into(),
            remote_selectors: record.remote_selectors.as_slice().into(),
        })
    }

    /// The same SA (same key, same sequence numbers) between other outer addresses.
    ///
    /// # Errors
    /// When the addresses are of different families.
    pub fn with_addresses(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Self, BuildError> {
        let outer = OuterTemplate::new(local, remote, self.encapsulation, self.outer_hop_limit)?;
        Ok(Self { outer, ..self.clone() })
    }

    /// The shared state.
    #[must_use]
    pub const fn live(&self) -> &Arc<LiveSa> {
        &self.live
    }

    /// The SPI.
    #[must_use]
    pub const fn spi(&self) -> EspSpi {
        self.spi
    }

    /// Raw ESP or in UDP.
    #[must_use]
    pub const fn encapsulation(&self) -> Encapsulation {
        self.encapsulation
    }

    /// The engine that does the cryptography, by name.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        self.key.engine().name()
    }

    /// Whether an inner packet with this flow may use the SA.
    #[must_use]
    pub fn accepts(&self, flow: &inner::Flow) -> bool {
        flow.matches_outbound(&self.local_selectors, &self.remote_selectors)
    }

    /// Octets in front of the inner packet in a slot; with [`SealSource::InPlace`] the inner
    /// packet stands right behind them.
    #[must_use]
    pub fn headroom(&self) -> usize {
        let outer = match self.output {
            OutputForm::Payload => 0,
            OutputForm::Packet => self.outer.len(),
        };
        outer + ESP_HEADER_LEN + self.key.iv_len()
    }

    /// Octets a sealed packet takes in its slot, for an inner packet of `inner` octets.
    #[must_use]
    pub fn sealed_len(&self, inner: usize) -> usize {
        self.headroom() + inner + trailer::len(inner, self.align()) + self.key.icv_len()
    }

    /// Octets of the whole outer IP packet for an inner packet of `inner` octets.
    #[must_use]
    pub fn outer_len(&self, inner: usize) -> usize {
        let outer = match self.output {
            OutputForm::Payload => self.outer.len(),
            OutputForm::Packet => 0,
        };
        self.sealed_len(inner) + outer
    }

    /// The longest inner packet whose outer packet has at most `mtu` octets; 0 if none fits.
    #[must_use]
    pub fn max_inner_len(&self, mtu: usize) -> usize {
        let fixed = self.outer.len() + ESP_HEADER_LEN + self.key.iv_len() + self.key.icv_len();
        let text = mtu.saturating_sub(fixed);
        (text - text % self.align()).saturating_sub(trailer::FIXED)
    }

    /// What payload and trailer are padded to: 4 (RFC 4303 §2.4) or the cipher's block.
    fn align(&self) -> usize {
        self.key.suite().cipher().block_len().max(4)
    }

    /// Traffic class of the outer header (RFC 4301 §5.1.2.1, RFC 6040).
    const fn outer_traffic_class(&self, inner: u8) -> u8 {
        let dscp = match self.dscp {
            DscpPolicy::CopyOut => inner & 0xfc,
            DscpPolicy::Set(dscp) => dscp << 2,
        };
        let ecn = match self.ecn {
            EcnPolicy::Rfc6040 => ecn::encapsulate(Ecn::of(inner)).bits(),
            EcnPolicy::Off => Ecn::NotEct.bits(),
        };
        dscp | ecn
    }

    /// What is authenticated in front of the record, and behind it (RFC 4303 §2.2.1,
    /// RFC 4106 §5).
    fn associated_data(&self, sequence: u64) -> (crypto::aead::JobAad<'static>, Suffix) {
        associated_data(self.spi, self.esn, self.key.suite().cipher().is_aead(), sequence)
    }
}

/// AEAD: SPI and the whole sequence number (8 or 12 octets). MAC: SPI and the low half in front,
/// the high half of an extended number behind.
pub(crate) fn associated_data(
    spi: EspSpi,
    esn: Esn,
    aead: bool,
    sequence: u64,
) -> (crypto::aead::JobAad<'static>, Suffix) {
    let spi = spi.to_be_bytes();
    let [h0, h1, h2, h3, l0, l1, l2, l3] = sequence.to_be_bytes();
    let short = [spi[0], spi[1], spi[2], spi[3], l0, l1, l2, l3];
    match (esn, aead) {
        (Esn::No, _) => (short.into(), Suffix::NONE),
        (Esn::Yes, true) => {
            let long = [spi[0], spi[1], spi[2], spi[3], h0, h1, h2, h3, l0, l1, l2, l3];
            (long.into(), Suffix::NONE)
        }
        (Esn::Yes, false) => (short.into(), Suffix::esn_high(u32::from_be_bytes([h0, h1, h2, h3]))),
    }
}

/// Where the inner packet of a [`SealPacket`] is.
#[derive(Clone, Copy, Debug)]
pub enum SealSource<'a> {
    /// Two pieces that follow each other, copied into the slot: the headers of a segment that
    /// was cut from a super-packet, and its part of the payload. Either may be empty.
    Parts {
        /// Must hold the whole IP header unless it is empty.
        head: &'a [u8],
        /// The rest.
        body: &'a [u8],
    },
    /// In the slot already, [`OutboundSa::headroom`] octets behind its start.
    InPlace {
        /// Octets of the inner packet.
        len: usize,
    },
    /// No packet: makes a dummy (RFC 4303 §2.6) that the peer discards.
    Dummy {
        /// Octets of filling.
        len: usize,
    },
}

/// A sealed packet: where it ends in its slot, and what its outer header holds or should hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Octets written from the start of the slot on.
    pub len: usize,
    /// The sequence number it carries.
    pub sequence: u64,
    /// Traffic class (TOS) of the outer header.
    pub traffic_class: u8,
    /// Whether the outer packet must not be fragmented.
    pub dont_fragment: bool,
}

/// One packet of a burst to seal.
#[derive(Debug)]
pub struct SealPacket<'a> {
    sa: &'a OutboundSa,
    source: SealSource<'a>,
    slot: &'a mut [u8],
    outcome: Result<Sealed, DropReason>,
    plan: Plan,
}

/// What a packet takes, known before sequence numbers are given out.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    inner_len: usize,
    /// Taken from the SA; never given back.
    number: Option<u64>,
}

impl<'a> SealPacket<'a> {
    /// Seals `source` into `slot`, which has at least [`OutboundSa::sealed_len`] octets.
    #[must_use]
    pub fn new(sa: &'a OutboundSa, source: SealSource<'a>, slot: &'a mut [u8]) -> Self {
        let outcome = Err(DropReason::Malformed);
        Self { sa, source, slot, outcome, plan: Plan::default() }
    }

    /// What became of it; before [`seal_burst`] an error.
    ///
    /// # Errors
    /// `Malformed`: no IP packet, or the slot is too short. `Expired`: the SA has stopped.
    /// `Policy`: no hop left.
    pub const fn outcome(&self) -> Result<Sealed, DropReason> {
        self.outcome
    }

    /// The sequence number that the packet took, also when it failed after that: its turn has to
    /// be passed on ([`SequenceCounter::pass_turn`](sa_store::live::SequenceCounter::pass_turn)).
    pub const fn number_taken(&self) -> Option<u64> {
        self.plan.number
    }

    /// The sealed packet.
    #[must_use]
    pub fn sealed(&self) -> Option<&[u8]> {
        self.slot.get(..self.outcome.ok()?.len)
    }

    /// The SA.
    #[must_use]
    pub const fn sa(&self) -> &'a OutboundSa {
        self.sa
    }

    /// Brings the inner packet and its trailer into place and plans the rest.
    fn prepare(&mut self) -> Result<Sealed, DropReason> {
        let malformed = DropReason::Malformed;
        let sa = self.sa;
        let inner_len = match self.source {
            SealSource::Parts { head, body } => head.len() + body.len(),
            SealSource::InPlace { len } | SealSource::Dummy { len } => len,
        };
        let room = self.slot.get_mut(sa.headroom()..).ok_or(malformed)?;
        let room_for_inner = room.get_mut(..inner_len).ok_or(malformed)?;
        match self.source {
            SealSource::Parts { head, body } => {
                let (front, back) = room_for_inner.split_at_mut(head.len());
                front.copy_from_slice(head);
                back.copy_from_slice(body);
            }
            SealSource::Dummy { .. } => room_for_inner.fill(0),
            SealSource::InPlace { .. } => {}
        }
        let (plan, next_header, traffic_class, dont_fragment) =
            if matches!(self.source, SealSource::Dummy { .. }) {
                (Plan { inner_len, number: None }, protocol::NONE, sa.outer_traffic_class(0), true)
            } else {
                let header = IpHeader::read(room_for_inner).ok_or(malformed)?;
                if sa.inner_hops == InnerHops::Decrement
                    && !inner::decrement_hop_limit(room_for_inner)
                {
                    return Err(DropReason::Policy);
                }
                (
                    // What lies behind the packet (link-layer padding) stays behind.
                    Plan { inner_len: header.total_len, number: None },
                    header.version.next_header(),
                    sa.outer_traffic_class(header.traffic_class),
                    sa.outer.dont_fragment(sa.df, &header),
                )
            };
        self.plan = plan;
        let inner_len = plan.inner_len;
        let trailer_len = trailer::len(inner_len, sa.align());
        let len = sa.sealed_len(inner_len);
        if sa.outer_len(inner_len) > usize::from(u16::MAX) || len > self.slot.len() {
            return Err(malformed);
        }
        let start = sa.headroom() + inner_len;
        let trailer = self.slot.get_mut(start..start + trailer_len).ok_or(malformed)?;
        trailer::write(trailer, next_header);
        Ok(Sealed { len, sequence: 0, traffic_class, dont_fragment })
    }

    /// Writes everything that depends on the sequence number, but the ICV.
    fn number(&mut self, sequence: u64) -> Result<(), DropReason> {
        let sealed = self.outcome.as_mut().map_err(|reason| *reason)?;
        sealed.sequence = sequence;
        let sa = self.sa;
        let malformed = DropReason::Malformed;
        let esp_at = sa.headroom() - sa.key.iv_len() - ESP_HEADER_LEN;
        let header = self.slot.get_mut(esp_at..sa.headroom()).ok_or(malformed)?;
        let (header, iv) = header.split_first_chunk_mut::<ESP_HEADER_LEN>().ok_or(malformed)?;
        let number = sequence.to_be_bytes();
        header[..4].copy_from_slice(&sa.spi.to_be_bytes());
        header[4..].copy_from_slice(&number[4..]);
        match &sa.cbc_iv {
            None => iv.copy_from_slice(&number),
            Some(generator) => {
                iv.copy_from_slice(&generator.iv(sequence).map_err(|_| malformed)?);
            }
        }
        Ok(())
    }

    fn job(&mut self) -> SealJob<'_> {
        let Ok(sealed) = self.outcome else { return SealJob::vacant() };
        let record_at = self.sa.headroom() - self.sa.key.iv_len();
        let Some(record) = self.slot.get_mut(record_at..sealed.len) else {
            return SealJob::vacant();
        };
        let (aad, suffix) = self.sa.associated_data(sealed.sequence);
        SealJob::new(&self.sa.key, aad, suffix, record)
    }

    /// Writes the outer headers: last, as the UDP checksum over IPv6 covers the ciphertext.
    fn finish(&mut self) {
        let Ok(sealed) = self.outcome else { return };
        if self.sa.output == OutputForm::Packet
            && let Some(packet) = self.slot.get_mut(..sealed.len)
        {
            let [.., high, low] = sealed.sequence.to_be_bytes();
            let id = u16::from_be_bytes([high, low]);
            self.sa.outer.write(packet, sealed.traffic_class, sealed.dont_fragment, id);
        }
    }
}

/// Seals a burst, packets of many SAs in any order; runs of one SA take their sequence numbers
/// in one step. Every packet has its outcome afterwards; drops are counted in the SAs.
pub fn seal_burst(packets: &mut [SealPacket<'_>]) {
    for chunk in packets.chunks_mut(CHUNK) {
        for packet in chunk.iter_mut() {
            packet.outcome = packet.prepare();
        }
        for run in chunk.chunk_by_mut(|a, b| core::ptr::eq(a.sa, b.sa)) {
            number_run(run);
        }
        // Small bursts do not pay for a large array.
        match chunk.len() {
            1 => seal_jobs::<1>(chunk),
            2..=8 => seal_jobs::<8>(chunk),
            _ => seal_jobs::<CHUNK>(chunk),
        }
        for packet in chunk {
            match packet.outcome {
                Ok(_) => packet.finish(),
                Err(reason) => packet.sa.live.count_drop(reason, 1),
            }
        }
    }
}

/// Has the engines seal at most `N` packets.
fn seal_jobs<const N: usize>(packets: &mut [SealPacket<'_>]) {
    let count = packets.len().min(N);
    let mut waiting = packets.iter_mut();
    let mut jobs: [SealJob<'_>; N] =
        core::array::from_fn(|_| waiting.next().map_or_else(SealJob::vacant, SealPacket::job));
    crypto::aead::seal_burst(jobs.get_mut(..count).unwrap_or_default());
    let done: [bool; N] =
        core::array::from_fn(|i| jobs.get(i).is_some_and(|job| job.state().result().is_ok()));
    for (packet, done) in packets.iter_mut().zip(done) {
        if packet.outcome.is_ok() && !done {
            packet.outcome = Err(DropReason::Malformed);
        }
    }
}

/// Gives the good packets of a run of one SA their sequence numbers, and books them.
fn number_run(run: &mut [SealPacket<'_>]) {
    let Some(live) = run.first().map(|packet| Arc::clone(&packet.sa.live)) else { return };
    let good = || |packet: &&mut SealPacket<'_>| packet.outcome.is_ok();
    let wanted = run.iter_mut().filter(good()).count() as u64;
    if wanted == 0 {
        return;
    }
    let mut numbers = live.reserve(wanted);
    let granted = usize::try_from(numbers.len()).unwrap_or(0);
    let bytes = run.iter_mut().filter(good()).take(granted).map(|p| p.plan.inner_len as u64).sum();
    let booked = live.charge_burst(granted as u64, bytes);
    for packet in run.iter_mut().filter(good()) {
        packet.plan.number = numbers.next();
        let outcome = packet.plan.number.ok_or(DropReason::Expired).and_then(|sequence| {
            if !booked {
                live.charge(1, packet.plan.inner_len as u64)?;
            }
            packet.number(sequence)
        });
        if let Err(reason) = outcome {
            packet.outcome = Err(reason);
        }
    }
    if (granted as u64) < wanted {
        live.stop(LimitReached::Sequence);
    }
}

/// Octets ESP over UDP or raw ESP adds in front of SPI and sequence number, for MTU arithmetic
/// before an SA exists.
#[must_use]
pub const fn outer_headers_len(ipv4: bool, encapsulation: Encapsulation) -> usize {
    let ip = if ipv4 { 20 } else { 40 };
    match encapsulation {
        Encapsulation::None => ip,
        Encapsulation::Udp => ip + UDP_HEADER_LEN,
    }
}
