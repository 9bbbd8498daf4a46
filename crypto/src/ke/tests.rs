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

#[test]
fn both_sides_agree_in_every_group() {
    let mut random = Counter(0);
    for group in KeGroup::ALL {
        let ours = generate(group, &mut random).unwrap();
        let theirs = generate(group, &mut random).unwrap();
        assert_eq!(ours.public.len(), group.public_len());
        assert_ne!(ours.public, theirs.public);
        assert_eq!(format!("{ours:?}").matches(&format!("PrivateKey({group})")).count(), 1);
        let one = ours.private.agree(&theirs.public).unwrap();
        let other = theirs.private.agree(&ours.public).unwrap();
        assert_eq!(one.expose(), other.expose());
        assert_eq!(one.len(), group.shared_len());
    }
}
