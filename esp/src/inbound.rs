//! Opening: ESP packets to inner packets.

use alloc::sync::Arc;

use crypto::aead::{Engines, OpenJob, SuiteKey};
use sa_store::{
    ChildId, Direction, EcnPolicy, Esn, EspSpi, Mode, SaRecord, TrafficSelector,
    live::{DropReason, LiveSa},
};

use crate::{
    BuildError, CHUNK, ESP_HEADER_LEN,
    ecn::{self, Ecn},
    inner::{self, Flow, IpHeader, protocol},
    outbound::associated_data,
    trailer,
};

/// An inbound SA, ready to open. Immutable; cheap to clone.
#[derive(Clone, Debug)]
pub struct InboundSa {
    live: Arc<LiveSa>,
    key: Arc<SuiteKey>,
    spi: EspSpi,
    child: ChildId,
    esn: Esn,
    ecn: EcnPolicy,
    local_selectors: Arc<[TrafficSelector]>,
    remote_selectors: Arc<[TrafficSelector]>,
}

impl InboundSa {
    /// From a record and the live state that belongs to it.
    ///
    /// # Errors
    /// When the record is not inbound, is of transport mode or has key material that does not
    /// fit its suite.
    pub fn new(
        record: &SaRecord,
        live: Arc<LiveSa>,
        engines: &Engines,
    ) -> Result<Self, BuildError> {
        if record.direction != Direction::Inbound {
            return Err(BuildError::Direction);
        }
        if record.mode != Mode::Tunnel {
            return Err(BuildError::TransportMode);
        }
        Ok(Self {
            live,
            key: Arc::new(engines.key(record.transform.suite, &record.keys)?),
            spi: record.spi,
            child: record.child,
            esn: record.transform.esn,
            ecn: record.ecn,
            local_selectors: record.local_selectors.as_slice().into(),
            remote_selectors: record.remote_selectors.as_slice().into(),
        })
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

    /// The child that the SA belongs to.
    #[must_use]
    pub const fn child(&self) -> ChildId {
        self.child
    }

    /// The engine that does the cryptography, by name.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        self.key.engine().name()
    }

    /// Whether a decrypted packet is what the SA protects (RFC 4301 §5.2 step 4).
    /// [`open_burst`] asks this itself.
    #[must_use]
    pub fn selectors_accept(&self, flow: &Flow) -> bool {
        flow.matches_inbound(&self.local_selectors, &self.remote_selectors)
    }

    /// Octets in front of the inner packet of an ESP packet.
    #[must_use]
    pub fn headroom(&self) -> usize {
        ESP_HEADER_LEN + self.key.iv_len()
    }
}

/// The SPI of an ESP packet, to look its SA up; `None` for reserved values and stubs.
#[must_use]
pub fn peek_spi(esp: &[u8]) -> Option<EspSpi> {
    EspSpi::new(u32::from_be_bytes(*esp.first_chunk()?))
}

/// An inner packet that came out of an ESP packet: `packet[start..start + len]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Where the inner packet starts in the ESP packet's octets.
    pub start: usize,
    /// Octets of the inner packet; padding is left out.
    pub len: usize,
}

/// What became of an ESP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenOutcome {
    /// Here is the inner packet.
    Inner(Opened),
    /// A dummy packet, discarded as it should be (RFC 4303 §2.6).
    Dummy,
    /// Dropped, and counted.
    Dropped(DropReason),
}

/// What is known of a packet once its ICV was right and it was no replay, whatever became of it
/// then: a peer behind a NAT may be followed by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Authenticated {
    /// The full sequence number.
    pub sequence: u64,
    /// Whether it was the highest so far.
    pub newest: bool,
}

/// One ESP packet of a burst to open, in place.
#[derive(Debug)]
pub struct OpenPacket<'a> {
    sa: &'a InboundSa,
    packet: &'a mut [u8],
    outer_traffic_class: Option<u8>,
    outcome: OpenOutcome,
    authenticated: Option<Authenticated>,
    sequence: u64,
    /// Not dropped yet; the job is made, or done.
    alive: bool,
}

impl<'a> OpenPacket<'a> {
    /// `packet` starts with the SPI and ends with the ICV. `outer_traffic_class` is the outer
    /// header's octet if it is known; congestion marks are lost without it.
    #[must_use]
    pub const fn new(
        sa: &'a InboundSa,
        packet: &'a mut [u8],
        outer_traffic_class: Option<u8>,
    ) -> Self {
        Self {
            sa,
            packet,
            outer_traffic_class,
            outcome: OpenOutcome::Dropped(DropReason::Malformed),
            authenticated: None,
            sequence: 0,
            alive: false,
        }
    }

    /// What became of it; before [`open_burst`] dropped.
    #[must_use]
    pub const fn outcome(&self) -> OpenOutcome {
        self.outcome
    }

    /// Set when the ICV was right and the packet was no replay.
    #[must_use]
    pub const fn authenticated(&self) -> Option<Authenticated> {
        self.authenticated
    }

    /// The SA.
    #[must_use]
    pub const fn sa(&self) -> &'a InboundSa {
        self.sa
    }

    /// The inner packet, if there is one.
    #[must_use]
    pub fn inner(&mut self) -> Option<&mut [u8]> {
        match self.outcome {
            OpenOutcome::Inner(Opened { start, len }) => self.packet.get_mut(start..start + len),
            OpenOutcome::Dummy | OpenOutcome::Dropped(_) => None,
        }
    }

    /// Everything that can be refused before the ICV is computed (RFC 4303 §3.4.2, §3.4.3).
    fn check(&mut self) -> Result<(), DropReason> {
        let sa = self.sa;
        let malformed = DropReason::Malformed;
        if sa.live.is_stopped() {
            return Err(DropReason::Expired);
        }
        let header: [u8; ESP_HEADER_LEN] = *self.packet.first_chunk().ok_or(malformed)?;
        let [s0, s1, s2, s3, l0, l1, l2, l3] = header;
        if [s0, s1, s2, s3] != sa.spi.to_be_bytes() {
            return Err(malformed);
        }
        let overhead = sa.headroom() + sa.key.icv_len();
        let text = self.packet.len().checked_sub(overhead).ok_or(malformed)?;
        if text == 0 || text % sa.key.suite().cipher().block_len().max(4) != 0 {
            return Err(malformed);
        }
        let low = u32::from_be_bytes([l0, l1, l2, l3]);
        self.sequence = sa.live.replay.infer(sa.esn, low).ok_or(DropReason::Replay)?;
        sa.live.replay.check(self.sequence).map_err(|_| DropReason::Replay)
    }

    fn job(&mut self) -> OpenJob<'_> {
        if !self.alive {
            return OpenJob::vacant();
        }
        let Some(record) = self.packet.get_mut(ESP_HEADER_LEN..) else { return OpenJob::vacant() };
        let sa = self.sa;
        let aead = sa.key.suite().cipher().is_aead();
        let (aad, suffix) = associated_data(sa.spi, sa.esn, aead, self.sequence);
        OpenJob::new(&sa.key, aad, suffix, record)
    }

    /// Everything after the ICV was right. The replay window moves first: whatever else is wrong
    /// with the packet, it has been used.
    fn accept(
        &mut self,
        permits: &mut impl FnMut(&InboundSa, &Flow) -> bool,
    ) -> Result<OpenOutcome, DropReason> {
        let sa = self.sa;
        let newest = sa.live.replay.accept(self.sequence).map_err(|_| DropReason::Replay)?;
        self.authenticated = Some(Authenticated { sequence: self.sequence, newest });
        let malformed = DropReason::Malformed;
        let start = sa.headroom();
        let end = self.packet.len().checked_sub(sa.key.icv_len()).ok_or(malformed)?;
        let text = self.packet.get_mut(start..end).ok_or(malformed)?;
        let (payload_len, next_header) = trailer::read(text).ok_or(malformed)?;
        if next_header == protocol::NONE {
            return Ok(OpenOutcome::Dummy);
        }
        let payload = text.get_mut(..payload_len).ok_or(malformed)?;
        let header = IpHeader::read(payload).ok_or(malformed)?;
        if header.version.next_header() != next_header {
            return Err(malformed);
        }
        // What lies behind the inner packet is traffic flow confidentiality padding (§2.7).
        let len = header.total_len;
        let inner = payload.get_mut(..len).ok_or(malformed)?;
        let flow = Flow::read(inner).ok_or(malformed)?;
        if !sa.selectors_accept(&flow) || !permits(sa, &flow) {
            return Err(DropReason::Policy);
        }
        if sa.ecn == EcnPolicy::Rfc6040
            && let Some(outer) = self.outer_traffic_class
        {
            let before = Ecn::of(header.traffic_class);
            let after = ecn::decapsulate(before, Ecn::of(outer)).ok_or(DropReason::Policy)?;
            if after != before {
                inner::set_traffic_class(inner, header.traffic_class & 0xfc | after.bits());
            }
        }
        Ok(OpenOutcome::Inner(Opened { start, len }))
    }

    fn drop_for(&mut self, reason: DropReason) {
        self.alive = false;
        self.outcome = OpenOutcome::Dropped(reason);
        self.sa.live.count_drop(reason, 1);
    }
}

/// Opens a burst in place, packets of many SAs in any order. Every packet has its outcome
/// afterwards; drops are counted in the SAs.
///
/// The order is that of RFC 4303 §3.4: replay check, ICV, replay window, then the inside.
pub fn open_burst(packets: &mut [OpenPacket<'_>]) {
    open_burst_where(packets, |_, _| true);
}

/// Like [`open_burst`], for who has policies: `permits` is asked about every decrypted packet that
/// its SA's selectors accept, and what it refuses is dropped as [`DropReason::Policy`] (RFC 4301
/// §5.2 step 4).
pub fn open_burst_where(
    packets: &mut [OpenPacket<'_>],
    mut permits: impl FnMut(&InboundSa, &Flow) -> bool,
) {
    for chunk in packets.chunks_mut(CHUNK) {
        for packet in chunk.iter_mut() {
            match packet.check() {
                Ok(()) => packet.alive = true,
                Err(reason) => packet.drop_for(reason),
            }
        }
        // Small bursts do not pay for a large array.
        match chunk.len() {
            1 => open_jobs::<1>(chunk, &mut permits),
            2..=8 => open_jobs::<8>(chunk, &mut permits),
            _ => open_jobs::<CHUNK>(chunk, &mut permits),
        }
        for run in chunk.chunk_by_mut(|a, b| core::ptr::eq(a.sa, b.sa)) {
            book_run(run);
        }
    }
}

/// Has the engines open at most `N` packets, and looks inside those that were authentic.
fn open_jobs<const N: usize>(
    packets: &mut [OpenPacket<'_>],
    permits: &mut impl FnMut(&InboundSa, &Flow) -> bool,
) {
    let count = packets.len().min(N);
    let mut waiting = packets.iter_mut();
    let mut jobs: [OpenJob<'_>; N] =
        core::array::from_fn(|_| waiting.next().map_or_else(OpenJob::vacant, OpenPacket::job));
    crypto::aead::open_burst(jobs.get_mut(..count).unwrap_or_default());
    let authentic: [bool; N] =
        core::array::from_fn(|i| jobs.get(i).is_some_and(|job| job.state().result().is_ok()));
    for (packet, authentic) in packets.iter_mut().zip(authentic).filter(|(p, _)| p.alive) {
        let result = if authentic { packet.accept(permits) } else { Err(DropReason::Auth) };
        match result {
            Ok(outcome) => packet.outcome = outcome,
            Err(reason) => packet.drop_for(reason),
        }
    }
}

/// Books what a run of one SA let through; a hard limit drops what would exceed it.
fn book_run(run: &mut [OpenPacket<'_>]) {
    let Some(live) = run.first().map(|packet| Arc::clone(&packet.sa.live)) else { return };
    let (mut packets, mut bytes, mut dummies) = (0, 0, 0);
    for packet in run.iter() {
        match packet.outcome {
            OpenOutcome::Inner(Opened { len, .. }) => {
                packets += 1;
                bytes += len as u64;
            }
            OpenOutcome::Dummy => dummies += 1,
            OpenOutcome::Dropped(_) => {}
        }
    }
    if dummies > 0 {
        live.count_dummies(dummies);
    }
    if packets == 0 || live.charge_burst(packets, bytes) {
        return;
    }
    for packet in run {
        if let OpenOutcome::Inner(Opened { len, .. }) = packet.outcome
            && let Err(reason) = live.charge(1, len as u64)
        {
            packet.drop_for(reason);
        }
    }
}
