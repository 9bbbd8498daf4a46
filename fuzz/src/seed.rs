//! The inputs that targets start from, made by our own encoders.

use ike::{
    negotiate::{Pfs, default_esp_proposals, default_ike_proposals, esp_offer, ike_offer},
    wire::{
        AuthMethod, Authentication, Certificate, ConfigAttribute, ConfigType, Configuration,
        Delete, ExchangeType, FragmentNumber, Header, Identification, KeyExchange, Nonce, Notify,
        NotifyType, Payload, PayloadType, TrafficSelectors, encode_associated, encode_message,
        encode_payloads,
    },
};
use sa_store::{EspSpi, Identity, IkeSpi, KeGroup, TrafficSelector};

fn header(exchange: ExchangeType, response: bool) -> Header {
    Header {
        spi_i: IkeSpi(0x0102_0304_0506_0708),
        spi_r: IkeSpi(if response { 0x1112_1314_1516_1718 } else { 0 }),
        exchange,
        initiator: !response,
        response,
        message_id: 0,
    }
}

fn selectors(texts: &[&str]) -> TrafficSelectors {
    TrafficSelectors::new(
        texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<TrafficSelector>>(),
    )
}

fn identity(text: &str) -> Identification<'static> {
    Identification::new(&text.parse().unwrap_or(Identity::KeyId(vec![1])))
}

/// Chains of payloads by name: what the exchanges of an IKE SA carry.
pub(crate) fn chains() -> Vec<(&'static str, Vec<Payload<'static>>)> {
    let mut all = Vec::new();
    let groups = [KeGroup::Curve25519, KeGroup::Modp2048];
    for (name, group) in ["init_x25519", "init_modp2048"].into_iter().zip(groups) {
        all.push((
            name,
            vec![
                Payload::Sa(ike_offer(&default_ike_proposals(), None)),
                Payload::Ke(KeyExchange::new(group, vec![2; group.public_len()])),
                Payload::Nonce(Nonce(vec![3; 32].into())),
                Payload::Notify(Notify::with_data(
                    NotifyType::NAT_DETECTION_SOURCE_IP,
                    vec![4; 20],
                )),
                Payload::Notify(Notify::with_data(
                    NotifyType::NAT_DETECTION_DESTINATION_IP,
                    vec![5; 20],
                )),
                Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)),
                Payload::Notify(Notify::with_data(
                    NotifyType::SIGNATURE_HASH_ALGORITHMS,
                    vec![0, 2, 0, 3],
                )),
            ],
        ));
    }
    all.push(("cookie", vec![Payload::Notify(Notify::with_data(NotifyType::COOKIE, vec![6; 24]))]));
    all.push(("invalid_ke", vec![Payload::Notify(Notify::invalid_ke(KeGroup::Ecp384))]));
    let spi = EspSpi::new(0xc000_0001).into_iter();
    for spi in spi {
        let esp = || Payload::Sa(esp_offer(&default_esp_proposals(), spi, Pfs::No));
        all.push((
            "auth",
            vec![
                Payload::IdI(identity("a.example")),
                Payload::IdR(identity("b.example")),
                Payload::Auth(Authentication {
                    method: AuthMethod::SHARED_KEY_MIC,
                    data: vec![7; 48].into(),
                }),
                esp(),
                Payload::TsI(selectors(&["10.1.0.0/16", "fd00:1::/32"])),
                Payload::TsR(selectors(&["10.2.0.0/16[tcp/80]", "fd00:2::/32"])),
                Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)),
                Payload::Notify(Notify::new(NotifyType::ADDITIONAL_TS_POSSIBLE)),
            ],
        ));
        all.push((
            "child",
            vec![
                Payload::Notify(Notify::about_esp(NotifyType::REKEY_SA, spi)),
                esp(),
                Payload::Nonce(Nonce(vec![8; 32].into())),
                Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![9; 32])),
                Payload::TsI(selectors(&["10.1.0.0/16[icmp/8]"])),
                Payload::TsR(selectors(&["10.2.0.1..10.2.0.9"])),
            ],
        ));
        all.push(("delete_esp", vec![Payload::Delete(Delete::esp([spi]))]));
    }
    all.push((
        "rekey_ike",
        vec![
            Payload::Sa(ike_offer(&default_ike_proposals(), Some(IkeSpi(77)))),
            Payload::Nonce(Nonce(vec![1; 16].into())),
            Payload::Ke(KeyExchange::new(KeGroup::Ecp256, vec![2; 64])),
        ],
    ));
    all.push(("delete_ike", vec![Payload::Delete(Delete::ike())]));
    all.push(("liveness", vec![]));
    all.push((
        "rest",
        vec![
            Payload::Cert(Certificate { encoding: 4, data: vec![1; 50].into() }),
            Payload::CertReq(Certificate { encoding: 4, data: vec![2; 20].into() }),
            Payload::VendorId(vec![3; 16].into()),
            Payload::Cp(Configuration {
                kind: ConfigType::CFG_REQUEST,
                attributes: vec![
                    ConfigAttribute { kind: 1, value: vec![].into() },
                    ConfigAttribute { kind: 10, value: vec![10, 1, 2, 3].into() },
                ],
            }),
            Payload::Eap(vec![1, 2, 0, 4].into()),
            Payload::IdI(identity("carol@example.org")),
            Payload::IdR(identity("2001:db8::1")),
        ],
    ));
    all
}

/// Whole datagrams, and chains behind the type of their first payload.
pub(crate) fn ike_messages() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    for (at, (name, payloads)) in chains().into_iter().enumerate() {
        let exchange = ExchangeType(34 + u8::try_from(at % 4).unwrap_or_default());
        if let Ok(datagram) = encode_message(&header(exchange, at % 2 == 1), &payloads) {
            all.push((name, datagram));
        }
        if name == "auth"
            && let Ok((first, octets)) = encode_payloads(&payloads)
        {
            all.push(("chain_auth", [&[first.0][..], &octets].concat()));
        }
    }
    let protected = |fragment, name, all: &mut Vec<(&'static str, Vec<u8>)>| {
        let header = header(ExchangeType::IKE_AUTH, true);
        if let Ok(mut datagram) = encode_associated(&header, PayloadType::ID_I, fragment, 64) {
            datagram.resize(datagram.len() + 64, 0x5a);
            all.push((name, datagram));
        }
    };
    protected(None, "sk", &mut all);
    protected(Some(FragmentNumber { number: 2, total: 3 }), "skf", &mut all);
    if let Some(mut v1) = all.first().map(|(_, datagram)| datagram.clone())
        && let Some(version) = v1.get_mut(17)
    {
        *version = 0x10;
        all.push(("ikev1", v1));
    }
    all
}

/// Packets for each suite: raw, with a wrong ICV, and sealed.
pub(crate) fn esp_packets() -> Vec<(&'static str, Vec<u8>)> {
    let inner_v4 = |destination: [u8; 4], protocol: u8| {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 2, 0, 1];
        packet.extend_from_slice(&destination);
        packet.extend_from_slice(&[8, 0, 0, 0, 0, 80, 0, 80, 1, 2, 3, 4]);
        packet
    };
    let mut inner_v6 = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    for last in [2u8, 1] {
        inner_v6.extend_from_slice(&[0xfd, 0, 0, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    }
    inner_v6.extend_from_slice(&[0, 80, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    let plaintext = |inner: &[u8], next_header: u8| {
        let mut out = inner.to_vec();
        let padding =
            u8::try_from(14 - inner.len() % 16 + if inner.len() % 16 > 14 { 16 } else { 0 });
        let padding = padding.unwrap_or_default();
        out.extend(1..=padding);
        out.extend_from_slice(&[padding, next_header]);
        out
    };
    let packet = |kind: u8, sequence: u32, octets: &[u8]| {
        let mut out = vec![kind];
        out.extend_from_slice(&sequence.to_be_bytes());
        out.extend_from_slice(&u16::try_from(octets.len()).unwrap_or_default().to_be_bytes());
        out.extend_from_slice(octets);
        out
    };
    let good = plaintext(&inner_v4([10, 1, 0, 1], 17), 4);
    let mut all = Vec::new();
    for (suite, name) in ["gcm256", "gcm128", "chacha", "cbc128", "cbc256"].into_iter().enumerate()
    {
        let suite = u8::try_from(suite).unwrap_or_default();
        let mut input = vec![suite, suite % 2];
        for sequence in [1, 2, 2, 40, 5] {
            input.extend(packet(2, sequence, &good));
        }
        input.extend(packet(2, 41, &plaintext(&inner_v6, 41)));
        input.extend(packet(2, 42, &plaintext(&inner_v4([10, 9, 0, 1], 17), 4)));
        input.extend(packet(2, 43, &plaintext(&[0; 9], 59)));
        input.extend(packet(1, 44, &[0; 64]));
        input.extend(packet(0, 0, &[0; 20]));
        all.push((name, input));
    }
    for (flags, name) in [(1 | 2, "esn_wrap"), (2, "near_end"), (4, "limit"), (8 | 1, "wide")] {
        let mut input = vec![0, flags];
        for sequence in [0xffff_fff1, 0xffff_ffff, 0, 1, 2, 3, 4, 5] {
            input.extend(packet(2, sequence, &good));
        }
        all.push((name, input));
    }
    all
}

/// Instructions for the keyed target: each begins with two octets of configuration.
pub(crate) fn keyed_scripts() -> Vec<(&'static str, Vec<u8>)> {
    // Deliver up to five datagrams.
    const GO: u8 = 4;
    let up = |choice: u8, flags: u8| vec![choice, flags, GO, GO, GO];
    let with = |choice: u8, flags: u8, tail: &[u8]| [up(choice, flags), tail.to_vec()].concat();
    vec![
        ("set_up_aead", up(0, 0)),
        ("set_up_cbc", up(1, 0)),
        ("set_up_chacha", up(2, 0)),
        ("set_up_modp", up(3, 0)),
        ("wrong_secret", up(0, 1)),
        ("fragments", with(0, 2, &[GO, GO])),
        ("cookie", with(0, 4, &[GO])),
        ("both_initiate", with(0, 8, &[GO, GO])),
        ("udp", up(0, 16)),
        ("pfs", with(4, 0, &[9, 4, GO, 9, 5, GO])),
        // Commands: (what << 1) | side.
        ("rekey_ike", with(0, 0, &[9, 2, GO, GO, 9, 3, GO, GO])),
        ("rekeyed_and_altered", with(0, 0, &[9, 2, GO, GO, 9, 12, 12, 1, 0, 0, 2, 0, 1, 3, GO])),
        ("rekey_child", with(0, 0, &[9, 4, GO, GO, 9, 5, GO, GO])),
        ("rekey_both", with(4, 0, &[9, 2, 9, 3, GO, GO, 9, 4, 9, 5, GO, GO])),
        ("terminate", with(0, 0, &[9, 8, GO])),
        ("terminate_child", with(0, 0, &[9, 10, GO, 9, 75, GO])),
        ("forget", with(0, 0, &[9, 14, GO])),
        ("liveness", with(0, 0, &[9, 12, GO, 8, 16, GO, 8, 17, GO])),
        ("time", with(0, 0, &[8, 22, GO, GO, 8, 22, GO, GO, 8, 23, GO, GO])),
        ("failures", vec![0, 0, 0, 10, 1, GO, GO, GO, 10, 2, 9, 2, GO, GO]),
        ("lossy", vec![0, 0, 5, 8, 12, GO, 5, 8, 13, 6, 7, GO, 8, 14, GO, GO]),
        ("altered", vec![0, 0, 1, 12, 2, 0, 9, 1, 0, 20, 2, 0, 33, 3, GO, GO]),
        ("withheld", vec![0, 0, 1, 15, 1, 0, 1, 0, 2, GO, 8, 15, GO, GO]),
        ("replaced", vec![0, 0, 1, 14, 41, 8, 0, 0, 0, 8, 0, 0, 0, 14, GO, GO]),
        // A fragment that is too long, some that are not, and the whole message.
        ("fragmented", vec![0, 0, 1, 20, 3, 2, 2, 250, 2, 0, 3, 0, 1, GO, GO]),
        ("fragmented_whole", vec![0, 0, 1, 20, 2, 0, 1, 40, 2, GO, GO, 8, 22, GO]),
        ("fragmented_refused", vec![0, 1, 1, 20, 2, 0, 1, 40, 2, GO, GO, 8, 23, 8, 23]),
        ("fragmented_rekey", with(0, 0, &[9, 2, 21, 5, 1, 4, 0, 2, 0, 3, GO, GO, 9, 5, GO])),
        ("fragmented_too_often", vec![0, 0, 1, 21, 70, 1, 66, 0, 0, 0, 0, 8, 12, GO, GO]),
        ("injected_request", with(0, 0, &[18, 0x24, 2, 5, 18, 0x25, 2, 6, 19, 0x34, 2, 8, GO])),
        ("injected_clear", with(0, 0, &[18, 0x34, 2, 0x48, 18, 0x14, 2, 0x44, GO])),
        ("injected_raw", with(0, 0, &[18, 0x24, 2, 0x80, 42, 8, 0, 0, 0, 8, 3, 4, 0, 1, GO])),
    ]
}

/// Configuration texts, right and wrong.
pub(crate) fn config_texts() -> Vec<(&'static str, Vec<u8>)> {
    let tunnel = r#"
[tunnels.site-b]
mode = "always-on"
local = { address = "192.0.2.1", id = "a.example" }
remote = { address = ["192.0.2.2", "b.example"], id = "b.example" }
auth = { psk = "PlantedSecretKey" }
ike = { proposals = ["aes256gcm16-prfsha384-ecp384"], rekey = "4h", dpd = "30s" }
encap = "auto"

[tunnels.site-b.children.net]
local = ["10.1.0.0/16"]
remote = ["10.2.0.0/16", "fd00::/32[tcp/80]"]
esp = { proposals = ["aes256gcm16-esn", "aes256gcm16"], rekey = "1h", rekey_bytes = "1TiB", replay_window = 4096 }
bypass = ["10.2.3.0/24"]
"#;
    let gateway = r#"
[gateway]
name = "site-a"
dataplane = "auto"
control = "/run/postern/control.sock"
state_dir = "/var/lib/postern"
on_stop = "closed"

[inline]
interface = "postern0"
workers = "auto"
"#;
    let text = |parts: &[&str]| parts.concat().into_bytes();
    vec![
        ("whole", text(&[gateway, tunnel])),
        ("tunnel", text(&[tunnel])),
        ("exposed", text(&["# others can read it", tunnel])),
        ("unknown_key", text(&["[gateway]\nnam = \"x\"\n", tunnel])),
        ("wrong_type", text(&["[gateway]\nname = 5\n[inline]\nworkers = \"many\"\n"])),
        ("syntax", text(&["[gateway\nname = \"x\n"])),
        ("later", text(&["[api]\ngrpc = \"127.0.0.1:1\"\n", tunnel])),
        (
            "bad_proposal",
            text(&[tunnel])
                .as_slice()
                .to_vec()
                .into_iter()
                .map(|octet| if octet == b'3' { b'4' } else { octet })
                .collect(),
        ),
        ("empty", Vec::new()),
        (
            "inline_table",
            text(&[
                "tunnels = { a = { remote = { address = \"any\" }, auth = { psk = \"0x000102030405060708090a0b0c0d0e0f\" }, children = { c = { local = [\"0.0.0.0/0\"], remote = [\"::/0\"] } } } }\n",
            ]),
        ),
    ]
}
