//! Whether selectors cover others.

use core::net::IpAddr;

use super::selector::TrafficSelector;

/// The `wanted` selectors that do not lie inside those of `by`, which may cover one together. Those
/// that only together cover all protocols or ports of one do not count as covering it.
#[must_use]
pub fn uncovered(wanted: &[TrafficSelector], by: &[TrafficSelector]) -> Vec<TrafficSelector> {
    if wanted == by {
        return Vec::new();
    }
    let mut sorted: Vec<&TrafficSelector> = by.iter().collect();
    sorted.sort_by_key(|selector| (selector.start(), selector.end()));
    let open = |wanted: &&TrafficSelector| !is_inside(wanted, &sorted);
    wanted.iter().filter(open).copied().collect()
}

/// Whether `sorted` selectors, ascending by their first address, cover all of `wanted` together.
fn is_inside(wanted: &TrafficSelector, sorted: &[&TrafficSelector]) -> bool {
    // The first address that is not covered yet.
    let mut next = wanted.start();
    for selector in sorted {
        let fits = (selector.protocol() == 0 || selector.protocol() == wanted.protocol())
            && selector.ports().covers(wanted.ports())
            && selector.is_ipv4() == wanted.is_ipv4();
        if !fits || selector.end() < next {
            continue;
        }
        if selector.start() > next {
            return false;
        }
        match behind(selector.end()) {
            Some(address) if selector.end() < wanted.end() => next = address,
            _ => return true,
        }
    }
    false
}

/// The address behind; `None` after the last one.
fn behind(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<TrafficSelector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_several_selectors_cover_together_is_covered() {
        let wanted = all(&["10.2.0.0/16", "10.3.0.0/16", "fd02::/48", "10.4.0.0/16[tcp/443]"]);
        let open = |by: &[&str]| uncovered(&wanted, &all(by));
        assert_eq!(uncovered(&wanted, &wanted), []);
        let halves =
            ["10.2.128.0/17", "10.2.0.0/17", "10.3.0.0/16", "fd02::/32", "10.4.0.0/16[tcp]"];
        assert_eq!(open(&halves), []);
        assert_eq!(open(&["0.0.0.0/0", "::/0"]), []);
        // A gap in the middle, at the front, at the end; another protocol; another family.
        let gaps = [
            "10.2.0.0/18",
            "10.2.128.0/17",
            "10.3.0.1-10.3.255.255",
            "fd02::/49",
            "10.4.0.0/16[udp/443]",
        ];
        assert_eq!(open(&gaps), wanted);
        assert_eq!(open(&["0.0.0.0/0"]), all(&["fd02::/48"]));
        assert_eq!(uncovered(&all(&["0.0.0.0/0"]), &all(&["128.0.0.0/1"])), all(&["0.0.0.0/0"]));
        assert_eq!(uncovered(&all(&["::/0"]), &all(&["8000::/1", "::/1"])), []);
    }
}
