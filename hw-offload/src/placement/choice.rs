//! Which place takes a pair: pure, so that every answer can be explained.

use sa_store::{Encapsulation, OffloadIntent, Path, SaRecord};

use crate::Capabilities;

/// The places in the order in which they should be tried for `intent`; `paths` are in the order
/// of preference of [`OffloadIntent::Auto`]. A wish comes first but rules nothing out: an SA
/// that runs elsewhere, and says so, is better than no SA.
pub(super) fn order(intent: &OffloadIntent, paths: &[Path]) -> Vec<usize> {
    let wished = |path: &Path| match (intent, path) {
        (OffloadIntent::Auto, _)
        | (OffloadIntent::Inline, Path::Inline)
        | (OffloadIntent::Kernel, Path::Kernel) => true,
        (OffloadIntent::Device(name), Path::Crypto(device) | Path::Packet(device)) => {
            name == device
        }
        _ => false,
    };
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.sort_by_key(|place| !paths.get(*place).is_some_and(wished));
    order
}

/// Whether a place can take `records` together (both directions of a pair).
///
/// # Errors
/// What is missing, for people.
pub(super) fn fits(capabilities: &Capabilities, records: &[&SaRecord]) -> Result<(), String> {
    for record in records {
        capabilities.can_run(record)?;
    }
    let free = capabilities.max_sas.saturating_sub(capabilities.used_sas);
    if free < records.len() as u64 {
        return Err(format!(
            "{} is full: {free} of its {} SAs are free",
            capabilities.path, capabilities.max_sas
        ));
    }
    Ok(())
}

/// The local address whose UDP port the record needs; `None` for raw ESP.
pub(super) fn udp_address(record: &SaRecord) -> Option<std::net::IpAddr> {
    (record.encapsulation == Encapsulation::Udp).then(|| record.local.ip())
}
