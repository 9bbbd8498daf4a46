//! What the pages for operators say of IKE.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use ike::negotiate::{default_esp_proposals, default_ike_proposals, parse_esp, parse_ike};

/// The lines of the block in `docs/site-to-site.md` that lists what is proposed by default.
fn listed(protocol: &str) -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/site-to-site.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("## Proposals").nth(1).unwrap();
    let block = section.split("```").nth(1).unwrap();
    let mut of = "";
    let mut list = Vec::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let last = words.next_back().unwrap().to_owned();
        of = words.next().unwrap_or(of);
        assert_eq!(words.next(), None, "{line}");
        if of == protocol {
            list.push(last);
        }
    }
    list
}

#[test]
fn the_page_lists_what_is_proposed_by_default() {
    let page: Vec<_> = listed("IKE").iter().map(|text| parse_ike(text).unwrap()).collect();
    assert_eq!(page, default_ike_proposals());
    let page: Vec<_> = listed("ESP").iter().map(|text| parse_esp(text).unwrap()).collect();
    assert_eq!(page, default_esp_proposals());
}
