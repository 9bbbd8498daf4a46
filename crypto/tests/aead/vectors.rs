//! The examples of the RFCs and of draft-mcgrew-gcm-test-01.

use sa_store::{EspCipher, EspSuite, IntegrityAlgorithm};

use super::{engines, hex, key};

struct AeadVector {
    key: &'static str,
    salt: &'static str,
    iv: &'static str,
    aad: &'static str,
    plaintext: &'static str,
    ciphertext: &'static str,
    icv: &'static str,
}

impl AeadVector {
    fn holds(&self, cipher: EspCipher) {
        let suite = EspSuite::new(cipher, None).unwrap();
        let material = [hex(self.key), hex(self.salt)].concat();
        let (iv, aad) = (hex(self.iv), hex(self.aad));
        let plaintext = hex(self.plaintext);
        let sealed = [&iv[..], &hex(self.ciphertext), &hex(self.icv)].concat();
        let mut engines_that_did_it = 0;
        for engine in engines() {
            let Some(key) = key(engine, suite, &material, &[]) else { continue };
            let mut record = [&iv[..], &plaintext, &[0; 16]].concat();
            key.seal(&aad, &mut record).unwrap();
            assert_eq!(record, sealed, "{} {}", engine.name(), self.key);
            assert_eq!(key.open(&aad, &mut record).unwrap(), plaintext);
            engines_that_did_it += 1;
        }
        assert!(engines_that_did_it >= 2);
    }
}

const RFC7634_KEY: &str = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f";

#[test]
fn rfc7634_appendix_a_esp() {
    AeadVector {
        key: RFC7634_KEY,
        salt: "a0a1a2a3",
        iv: "1011121314151617",
        aad: "01020304 00000005",
        plaintext: "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
            0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
            2425262728292a2b2c2d2e2f3031323334353637 01020204",
        ciphertext: "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
            14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
            cbec163fac469b502773f6fb94e664da9165b82829f641e0",
        icv: "76aaa8266b7fb0f7b11b369907e1ad43",
    }
    .holds(EspCipher::ChaCha20Poly1305);
}

#[test]
fn rfc7634_appendix_b_ike() {
    AeadVector {
        key: RFC7634_KEY,
        salt: "a0a1a2a3",
        iv: "1011121314151617",
        aad: "c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2e202500 00000009 00000045 29000029",
        plaintext: "0000000c000040010000000a00",
        ciphertext: "610394701f8d017f7c12924889",
        icv: "6b71bfe25236efd7cdc67066906315b2",
    }
    .holds(EspCipher::ChaCha20Poly1305);
}

#[test]
fn mcgrew_gcm_test_esp() {
    for vector in MCGREW {
        let cipher = EspCipher::AesGcm16(if vector.key.len() == 32 { 128 } else { 256 });
        vector.holds(cipher);
    }
}

/// draft-mcgrew-gcm-test-01 section 4: the cases with 128 and 256 bits, with and without ESN.
const MCGREW: [AeadVector; 13] = [
    AeadVector {
        key: "4c80cdefbb5d10da906ac73c3613a634",
        salt: "2e443b68",
        iv: "4956ed7e3b244cfe",
        aad: "000043218765432100000000",
        plaintext: "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
            00000000045f736970045f756470037369700963796265726369747902646b00
            0021000101020201",
        ciphertext: "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34
            cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce
            61bc17d768fd9732",
        icv: "459018148f6cbe722fd04796562dfdb4",
    },
    AeadVector {
        key: "feffe9928665731c6d6a8f9467308308",
        salt: "cafebabe",
        iv: "facedbaddecaf888",
        aad: "0000a5f80000000a",
        plaintext: "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100
            0001000000000000037369700963796265726369747902646b00000100010001",
        ciphertext: "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c
            3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1",
        icv: "83b70d3aa8bc6ee4c309e9d85a41ad4a",
    },
    AeadVector {
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        salt: "11223344",
        iv: "0102030405060708",
        aad: "4a2cbfe300000002",
        plaintext: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000
            7002400020bf0000020405b40101040201020201",
        ciphertext: "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763
            748a637985771d347f0545659f14e99def842d8e",
        icv: "b335f4eecfdbf831824b4c4915956c96",
    },
    AeadVector {
        key: "00000000000000000000000000000000",
        salt: "00000000",
        iv: "0000000000000000",
        aad: "0000000000000001",
        plaintext: "4500003c99c500008001cb7a40679318010101010800075c0200440061626364
            65666768696a6b6c6d6e6f707172737475767761626364656667686901020201",
        ciphertext: "4688daf2f973a392732909c331d56d60f694abaa414b5e7ff5fdcdfff5e9a284
            456476492719ffb64de7d9dca1e1d894bc3bd57873ed4d181d19d4d5c8c18af3",
        icv: "f821d496eeb096e98ad2b69e4799c71d",
    },
    AeadVector {
        key: "3de09874b388e6491988d0c3607eae1f",
        salt: "57690e43",
        iv: "4e280000a2fca1a3",
        aad: "42f67e3f1010101010101010",
        plaintext: "4500003c99c300008001cb7c40679318010101010800085c0200430061626364
            65666768696a6b6c6d6e6f707172737475767761626364656667686901020201",
        ciphertext: "fba2caa4853cf9f0f22cb10d86dd83b0fec75691cf1a04b00d1138ec9c357917
            65acbd8701ad79845bf9fe3fba487bc91755e6662b4c8d0d1f5e22739530320a",
        icv: "e0d731cc978ecafaeae88f00e80d6e48",
    },
    AeadVector {
        key: "3de09874b388e6491988d0c3607eae1f",
        salt: "57690e43",
        iv: "4e280000a2fca1a3",
        aad: "42f67e3f1010101010101010",
        plaintext: "4500001c42a200008001441f406793b6e00000020a00f5ff01020201",
        ciphertext: "fba2ca845e5df9f0f22c3e6e86dd831e1fc65792cd1af9130e1379ed",
        icv: "369f071f35e034be95f112e4e7d05d35",
    },
    AeadVector {
        key: "abbccddef00112233445566778899aab",
        salt: "decaf888",
        iv: "cafedebaceface74",
        aad: "000001000000000000000001",
        plaintext: "4500004933ba00007f119106c3fb1d10c2b1d326c02831ce0035dd7b800302d5
            00004e20001e8c18d75b81dc91baa0476b91b924b280389d92c963bac046ec95
            9b6266c04722b14923010101",
        ciphertext: "18a6fd42f72cbf4ab2a2ea901f73d814e3e7f243d95412e1c349c1d2fbec168f
            9190feebaf2cb01984e65863965d7472b79da345e0e780191f0d2f0e0f496c22
            6f2127b27db35724e7845d68",
        icv: "651f57e65f354f75ff17015769623436",
    },
    AeadVector {
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        salt: "73616c74",
        iv: "616e640169766563",
        aad: "17405e67156f3126dd0db99b",
        plaintext: "45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb712602
            50101f646d540001",
        ciphertext: "f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f
            f4d3a31ce673119e",
        icv: "451626c2415771e3b7eebca614c89b35",
    },
    AeadVector {
        key: "3de09874b388e6491988d0c3607eae1f",
        salt: "57690e43",
        iv: "4e280000a2fca1a3",
        aad: "42f67e3f1010101010101010",
        plaintext: "45000049333e00007f119182c3fb1d10c2b1d326c02831ce0035cb458003025b
            000001e0001e8c18d65759d52284a0352c71475c8880391c764d6e5ee0496b32
            5ae270c03899493915010101",
        ciphertext: "fba2cad12fc1f9f00d3cebf305410db83d7784b607323d220f24b0a97d541828
            00cadb0f68d99ef0e0c0c89ae9bea8884e52d65bc1afd0740f742444747b5b39
            ab533163aad4550ee5160975",
        icv: "cdb608c5769189609763b8e18caa81e2",
    },
    AeadVector {
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        salt: "73616c74",
        iv: "616e640169766563",
        aad: "17405e67156f3126dd0db99b",
        plaintext: "636973636f0172756c657301746865016e6574776501646566696e6501746865
            746563686e6f6c6f67696573017468617477696c6c01646566696e65746f6d6f
            72726f7701020201",
        ciphertext: "d4b7ed86a1777f2ea13d6973d324c69e7b43f826fb56831226508bebd2dceb18
            d0a6df10e5487df074113e14c641024e3e6773d91a62ee429b043a10e3efe6b0
            12a49363412364f8",
        icv: "c0cac587f249e56b11e24f30e44ccc76",
    },
    AeadVector {
        key: "7d773d00c144c525ac619d18c84a3f47",
        salt: "d9664267",
        iv: "43457e9182443bc6",
        aad: "335467aeffffffff",
        plaintext: "01020201",
        ciphertext: "437f866b",
        icv: "cb3f699fe9b0822bac961c4504bef270",
    },
    AeadVector {
        key: "abbccddef00112233445566778899aab",
        salt: "decaf888",
        iv: "cafedebaceface74",
        aad: "000001000000000000000001",
        plaintext: "746f016265016f72016e6f7401746f0162650001",
        ciphertext: "29c9fc69a197d038ccdd14e2ddfcaa0543332164",
        icv: "412503524303ed3c6c5f283843af8c3e",
    },
    AeadVector {
        key: "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961",
        salt: "7475726e",
        iv: "333021696765746d",
        aad: "796b6963ffffffffffffffff",
        plaintext: "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364
            65666768696a6b6c6d6e6f707172737401020201",
        ciphertext: "f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86
            4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9",
        icv: "d0937ba2945f669368661a329fb4c053",
    },
];

/// RFC 3602 section 4: AES-CBC. (The ICVs of ESP are not part of these examples.)
#[test]
fn rfc3602_cbc() {
    let suite =
        EspSuite::new(EspCipher::AesCbc(128), Some(IntegrityAlgorithm::HmacSha256_128)).unwrap();
    for (key_octets, iv, plaintext, ciphertext) in [
        (
            "06a9214036b8a15b512e03d534120006",
            "3dafba429d9eb430b422da802c9fac41",
            hex("53696e676c6520626c6f636b206d7367"),
            "e353779c1079aeb82708942dbe77181a",
        ),
        (
            "c286696d887c9aa0611bbb3e2025a45a",
            "562e17996d093d28ddb3ba695a2e6f58",
            (0..32).collect(),
            "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
        ),
        (
            "56e47a38c5598974bc46903dba290349",
            "8ce82eefbea0da3c44699ed7db51b7d9",
            (0xa0..=0xdf).collect(),
            "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e
             35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
        ),
        (
            // Case 5: an ESP packet with its padding (1, 2, 3, ...), pad length, next header 1.
            "90d382b410eeba7ad938c46cec1a82bf",
            "e96e8c08ab465763fd098d45dd3ff893",
            hex("08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f1011121314151617
                 18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637
                 0102030405060708090a0b0c0d0e0e01"),
            "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856
             a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a
             a269add047ad2d5913ac19b7cfbad4a6",
        ),
    ] {
        let key = key(engines()[0], suite, &hex(key_octets), &[1; 32]).unwrap();
        let mut record = [&hex(iv)[..], &plaintext, &[0; 16]].concat();
        key.seal(b"", &mut record).unwrap();
        assert_eq!(record[16..record.len() - 16], hex(ciphertext)[..], "{key_octets}");
        assert_eq!(key.open(b"", &mut record).unwrap(), plaintext);
    }
}

/// RFC 4868 section 2.7.2: HMAC-SHA-2 with keys of the output's length.
#[test]
fn rfc4868_hmac() {
    use IntegrityAlgorithm::{HmacSha256_128, HmacSha384_192, HmacSha512_256};
    let counting = |len: u8| (1..=len).collect::<Vec<u8>>();
    let jefe = |len: usize| b"Jefe".iter().copied().cycle().take(len).collect::<Vec<u8>>();
    let nothing = b"what do ya want for nothing?".to_vec();
    for (integrity, key_octets, data, mac) in [
        (
            HmacSha256_128,
            jefe(32),
            nothing.clone(),
            "167f928588c5cc2eef8e3093caa0e87c9ff566a14794aa61648d81621a2a40c6",
        ),
        (
            HmacSha256_128,
            vec![0xaa; 32],
            vec![0xdd; 50],
            "cdcb1220d1ecccea91e53aba3092f962e549fe6ce9ed7fdc43191fbde45c30b0",
        ),
        (
            HmacSha256_128,
            counting(32),
            vec![0xcd; 50],
            "372efcf9b40b35c2115b1346903d2ef42fced46f0846e7257bb156d3d7b30d3f",
        ),
        (
            HmacSha384_192,
            jefe(48),
            nothing.clone(),
            "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184da86a368e9b8e16f5
             349524ca4e82400cbde0686d403371c9",
        ),
        (
            HmacSha512_256,
            jefe(64),
            nothing,
            "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454
             6aa334ae9fb9afc2184932d8695e397bfa0ffb93466cfcceaae38c833b7dba38",
        ),
        (
            HmacSha512_256,
            vec![0xaa; 64],
            vec![0xdd; 50],
            "2ee7acd783624ca9398710f3ee05ae41b9f9b0510c87e49e586cc9bf961733d8
             623c7b55cebefccf02d5581acc1c9d5fb1ff68a1de45509fbe4da9a433922655",
        ),
        (
            HmacSha512_256,
            counting(64),
            vec![0xcd; 50],
            "5e6688e5a3daec826ca32eaea224eff5e700628947470e13ad01302561bab108
             b8c48cbc6b807dcfbd850521a685babc7eae4a2a2e660dc0e86b931d65503fd2",
        ),
    ] {
        let suite = EspSuite::new(EspCipher::AesCbc(256), Some(integrity)).unwrap();
        let key = key(engines()[0], suite, &[9; 32], &key_octets).unwrap();
        // The last 16 octets stand where an IV does; the MAC covers them in order.
        let (aad, iv) = data.split_last_chunk::<16>().unwrap();
        let mut record = [&iv[..], &vec![0; integrity.icv_len()]].concat();
        key.seal(aad, &mut record).unwrap();
        assert_eq!(record[16..], hex(mac)[..integrity.icv_len()], "{integrity}");
    }
}
