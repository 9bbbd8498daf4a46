//! Which key exchange method a request for a child comes with (RFC 7296 §1.3, §2.7).

use sa_store::KeGroup;

use super::Plan;
use crate::{config::ChildConfig, sa::established::Established, wire::Notify};

/// The method to send a KE payload for at first: the one that the peer took last time for this
/// child or, that being the first time, for the IKE SA, if the child has it at all.
pub(super) fn first(
    sa: &Established,
    config: &ChildConfig,
    used: Option<KeGroup>,
) -> Option<KeGroup> {
    let offered = |group: &KeGroup| offers(config, Some(*group));
    let known = used.filter(offered).or(Some(sa.channel.suite.group).filter(offered));
    known.or_else(|| config.proposals.iter().find_map(|it| it.groups.first()).copied())
}

/// What the peer asks for with INVALID_KE_PAYLOAD, `Some(None)` being no key exchange (0): if it
/// is among what was offered and has not been tried.
pub(super) fn asked_for(plan: &Plan, notify: &Notify<'_>) -> Option<Option<KeGroup>> {
    let wanted = match notify.data_u16()? {
        0 => None,
        id => Some(KeGroup::from_transform_id(id)?),
    };
    (!plan.tried.contains(&wanted) && offers(&plan.config, wanted)).then_some(wanted)
}

/// Whether a child may have a key exchange of this method, or may have none.
fn offers(config: &ChildConfig, method: Option<KeGroup>) -> bool {
    config.proposals.iter().any(|it| match method {
        Some(group) => it.groups.contains(&group),
        None => it.groups.is_empty(),
    })
}
