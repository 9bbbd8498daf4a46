//! A tunnel that is up, with traffic running both ways, to which something happens.

use std::time::Duration;

use serde_json::Value;

use crate::failure::{Failure, Outcome, ensure};
use crate::lab::{Lab, Turn};
use crate::scenario::{Pair, Starter, UP, peer_tunnel, tunnel};
use crate::topology::{Family, Side, Wire};
use crate::traffic::{Flow, Shape};
use crate::{postern, strongswan, wait};

/// Long enough for many packets to leave if they could.
pub const WHILE: Duration = Duration::from_millis(1500);

/// The usual tunnel; what differs from its defaults.
#[derive(Debug, Clone)]
pub struct Course {
    /// Who sends IKE_SA_INIT.
    pub starter: Starter,
    /// Seconds of silence before we ask the peer for signs of life; 0 for never.
    pub dpd_s: u32,
    /// The same of strongSwan.
    pub peer_dpd_s: u32,
    /// Our options.
    pub ours: postern::Options,
    /// strongSwan's options.
    pub theirs: strongswan::Options,
}

impl Course {
    /// With all defaults, started by this side.
    #[must_use]
    pub fn by(starter: Starter) -> Self {
        Self {
            starter,
            dpd_s: 0,
            peer_dpd_s: 0,
            ours: postern::Options::default(),
            theirs: strongswan::Options::default(),
        }
    }

    /// Brings the tunnel up, starts the traffic and runs `body`, while strongSwan's side lets
    /// nothing leave in clear either.
    pub fn run(&self, body: impl FnOnce(&Lab, &Pair, &mut Flow) -> Outcome) -> Outcome {
        Lab::run(Turn::Shared, Wire::Direct, |lab| {
            let mut ours = tunnel(lab, self.starter, Family::V4, Family::V4);
            let mut theirs = peer_tunnel(lab, &ours);
            (ours.dpd_s, theirs.dpd_s) = (self.dpd_s, self.peer_dpd_s);
            let pair = Pair::start_with(
                lab,
                std::slice::from_ref(&ours),
                &[theirs],
                &self.ours,
                &self.theirs,
            )?;
            pair.bring_up(self.starter, &ours)?;
            lab.net.hold_back(Side::Right)?;
            let shape = Shape { rate: 300, ..Shape::default() };
            let mut flow = lab.flow(Family::V4, &shape)?;
            flow.start()?;
            flow.flows(50, UP)?;
            body(lab, &pair, &mut flow)?;
            // Whatever happened, packets tried to pass all the time.
            let report = flow.finish()?;
            ensure(report.there.sent > 100 && report.there.doubled == 0, || format!("{report}"))
        })
    }
}

/// The inbound SPI of a tunnel's first child, empty when it has no pair.
pub fn spi(tunnel: &Value) -> String {
    tunnel["children"][0]["spi_in"].as_str().unwrap_or_default().to_owned()
}

/// The SPIs of a tunnel's only IKE SA.
pub fn ike_spis(tunnel: &Value) -> Outcome<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sas = tunnel["ike_sas"].as_array().map(Vec::as_slice).unwrap_or_default();
    match sas {
        [sa] => Ok((text(&sa["spi_i"]), text(&sa["spi_r"]))),
        _ => Err(Failure::new(format!("one IKE SA is wanted: {tunnel}"))),
    }
}

/// What a rekey replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A pair of Child SAs.
    Child,
    /// The IKE SA.
    Ike,
}

impl What {
    /// The SPIs that identify it in what `postern sa` shows of a tunnel; empty without any.
    pub fn spis(self, tunnel: &Value) -> (String, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self {
            Self::Child => {
                let child = &tunnel["children"][0];
                (text(&child["spi_in"]), text(&child["spi_out"]))
            }
            Self::Ike => {
                // The newest IKE SA is the one in charge; an old one may still be deleting.
                let sas = tunnel["ike_sas"].as_array().map(Vec::as_slice).unwrap_or_default();
                let usable = |sa: &&Value| sa["state"] != "deleting" && sa["state"] != "rekeying";
                let sa = sas.iter().rev().find(usable).unwrap_or(&Value::Null);
                (text(&sa["spi_i"]), text(&sa["spi_r"]))
            }
        }
    }
}

/// Waits until the tunnel is up with other SPIs than before, and traffic flows again.
pub fn up_again(pair: &Pair, flow: &mut Flow, before: &str, limit: Duration) -> Outcome<Value> {
    let tunnel = pair.us.wait_tunnel("the tunnel to be up again", "site", limit, |tunnel| {
        postern::is_up(tunnel) && spi(tunnel) != before
    })?;
    flow.flows(100, UP)?;
    Ok(tunnel)
}

/// Nothing leaves in clear during a while.
pub fn nothing_leaves(lab: &Lab, span: Duration) -> Outcome {
    std::thread::sleep(span);
    lab.no_canary_so_far().map(drop)
}

/// Waits until strongSwan has no IKE SA.
pub fn peer_has_nothing(pair: &Pair, limit: Duration) -> Outcome {
    wait::until("strongSwan to have no SA", limit, || {
        let sas = pair.peer.ike_sas()?;
        if sas.is_empty() { Ok(()) } else { Err(Failure::new(format!("{sas:?}"))) }
    })
}
