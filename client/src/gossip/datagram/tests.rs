use super::*;

/// Writes what [`Reader`] reads.
#[derive(Clone, Default)]
pub(in crate::gossip) struct Writer(pub(in crate::gossip) Vec<u8>);

impl Writer {
    pub(in crate::gossip) fn message(kind: u8) -> Self {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([VERSION, kind]);
        Self(bytes)
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u8(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }

    pub(in crate::gossip) fn text(mut self, text: &str) -> Self {
        self.0.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn member(self, id: &MemberId) -> Self {
        let mut writer = self.text(&id.name).u64(id.generation);
        match id.addr.ip() {
            IpAddr::V4(ip) => {
                writer.0.push(4);
                writer.0.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                writer.0.push(6);
                writer.0.extend(ip.octets());
            }
        }
        writer.0.extend(id.addr.port().to_le_bytes());
        writer
    }

    pub(in crate::gossip) fn digest(
        self,
        id: &MemberId,
        heartbeat: u64,
        forgotten: u64,
        version: u64,
    ) -> Self {
        self.member(id).u64(heartbeat).u64(forgotten).u64(version)
    }

    pub(in crate::gossip) fn told(self, id: &MemberId, forgotten: u64, from: u64) -> Self {
        self.u8(0).member(id).u64(forgotten).u64(from)
    }

    pub(in crate::gossip) fn value(self, key: &str, value: &str, version: u64) -> Self {
        self.u8(1).text(key).text(value).u64(version).u8(0)
    }

    fn max_version(self, version: u64) -> Self {
        self.u8(2).u64(version)
    }

    /// Compressed where that is shorter, as chitchat does it.
    pub(in crate::gossip) fn pack(mut self, content: &Self) -> Self {
        for block in content.0.chunks(16_384) {
            let packed = zstd::bulk::compress(block, 0).unwrap();
            let (kind, bytes) = if packed.len() <= block.len() { (1, &packed[..]) } else { (2, block) };
            self.0.push(kind);
            self.0.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
            self.0.extend(bytes);
        }
        self.u8(0)
    }
}

pub(in crate::gossip) fn member(name: &str, port: u16) -> MemberId {
    MemberId { name: name.to_owned(), generation: 1, addr: SocketAddr::from(([127, 0, 0, 1], port)) }
}

pub(in crate::gossip) fn own_of(name: &str) -> Own {
    Own { id: member(name, 9), heartbeat: 50 }
}

fn own() -> Own {
    own_of("data/me")
}

fn admitted(writer: &Writer) -> Result<BTreeSet<MemberId>, Refusal> {
    admit(&writer.0, &own(), &BTreeSet::new())
}

fn ack(content: &Writer) -> Result<BTreeSet<MemberId>, Refusal> {
    admitted(&Writer::message(2).pack(content))
}

fn syn(content: &Writer) -> Result<BTreeSet<MemberId>, Refusal> {
    admitted(&Writer::message(0).pack(content).text(PROTOCOL))
}

#[test]
fn what_members_send_is_let_in() {
    let (a, me) = (member("data/a", 1), member("data/me", 9));
    let digest = Writer::default().digest(&a, 17, 0, 4).digest(&me, 3, 0, 4);
    assert_eq!(syn(&digest), Ok(BTreeSet::from([a.clone(), me])));
    let told = Writer::default().told(&a, 0, 0).value("kind", "data", 1).value("name", "a", 2);
    assert_eq!(ack(&told), Ok(BTreeSet::new()));
    assert!(admitted(&Writer::message(1).pack(&digest).pack(&told)).is_ok());
    assert!(admitted(&Writer::message(3)).is_ok());
}

/// Each of these makes chitchat 0.13 panic, forget or remember without end.
#[test]
fn what_would_do_harm_is_refused() {
    let (a, me) = (member("data/a", 1), member("data/me", 9));
    let told = || Writer::default().told(&a, 0, 0);
    let foreign = |writer: &Writer| assert_eq!(ack(writer), Err(Refusal::Foreign));
    // The highest version told is below that of a value.
    foreign(&told().value("k", "v", 10).max_version(5));
    // A key that is cut within a character.
    foreign(&told().value("é", "v", 1));
    foreign(&told().value("", "v", 1));
    foreign(&told().value("k", &"v".repeat(MAX_VALUE_BYTES + 1), 1));
    // Counters next to an overflow.
    foreign(&told().value("k", "v", u64::MAX));
    assert_eq!(syn(&Writer::default().digest(&a, u64::MAX, 0, 1)), Err(Refusal::Foreign));
    // What is told again, backwards, or as forgotten.
    foreign(&told().value("k", "v", 2).value("l", "v", 2));
    foreign(&told().told(&a, 0, 0));
    foreign(&Writer::default().told(&a, 7, 0).value("k", "v", 8));
    foreign(&Writer::default().value("k", "v", 1));
    let many = |count: u64| (1..=count).fold(told(), |told, n| told.value("k", "v", n));
    assert!(ack(&many(MAX_VERSION)).is_ok());
    foreign(&many(MAX_VERSION + 1));
    // Values of the reader itself.
    let about_me = Writer::default().told(&me, 0, 0).value("client_url", "http://elsewhere:1", 9);
    assert_eq!(ack(&about_me), Err(Refusal::AboutSelf));
    // Heartbeats of the reader that it will not have counted for hours: those that it does count would be taken for old.
    let ahead = |heartbeat| syn(&Writer::default().digest(&me, heartbeat, 0, 4));
    assert_eq!(ahead(MAX_COUNT), Err(Refusal::AboutSelf));
    assert!(ahead(60).is_ok(), "a little ahead of what was read last");
}

#[test]
fn a_packet_that_unpacks_to_too_much_is_refused() {
    let zeros = Writer(vec![0; 65_535]);
    let block = zstd::bulk::compress(&zeros.0, 0).unwrap();
    let mut bomb = Writer::message(0);
    for _ in 0..1_000 {
        bomb.0.push(1);
        bomb.0.extend(u16::try_from(block.len()).unwrap().to_le_bytes());
        bomb.0.extend(&block);
    }
    assert!(bomb.0.len() < 65_507, "it fits into a datagram, and is 65 MB");
    assert_eq!(admitted(&bomb.u8(0).text(PROTOCOL)), Err(Refusal::Foreign));
}

#[test]
fn no_more_members_than_fit_are_remembered() {
    let known: BTreeSet<MemberId> = (0..MAX_MEMBERS).map(|n| member(&format!("data/{n}"), 1)).collect();
    let packet = |name: &str| {
        let digest = Writer::default().digest(&member(name, 1), 1, 0, 1);
        Writer::message(0).pack(&digest).text(PROTOCOL).0
    };
    assert!(admit(&packet("data/7"), &own(), &known).is_ok(), "one that is known");
    assert_eq!(admit(&packet("data/new"), &own(), &known), Err(Refusal::TooMany));
}

/// chitchat sends the table of all members whole: its size is what limits a cluster.
#[test]
fn a_table_of_as_many_members_as_are_remembered_fits_into_a_datagram() {
    let mut digest = Writer::default();
    let mut noise = 1_u64;
    let mut draw = |below: u64| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 33) % below
    };
    for n in 0..MAX_MEMBERS as u64 {
        // Started within a month, counting for that long, all over a /16.
        let ip = [10, 1, u8::try_from(draw(256)).unwrap(), u8::try_from(draw(256)).unwrap()];
        let id = MemberId {
            name: format!("data/vectors-{n}"),
            generation: 1_700_000_000_000 + draw(2_600_000_000),
            addr: SocketAddr::from((ip, 7_100)),
        };
        digest = digest.digest(&id, draw(50_000_000), 0, 6);
    }
    let packet = Writer::message(0).pack(&digest).text(PROTOCOL);
    assert!(packet.0.len() < 60_000, "{} bytes", packet.0.len());
    assert_eq!(admitted(&packet).map(|named| named.len()), Ok(MAX_MEMBERS));
}

#[test]
fn noise_is_refused() {
    let sound = Writer::message(0).pack(&Writer::default().digest(&member("a", 1), 1, 0, 1)).text(PROTOCOL).0;
    for cut in 0..sound.len() {
        assert_eq!(admitted(&Writer(sound[..cut].to_vec())), Err(Refusal::Foreign), "cut at {cut}");
    }
    let other = Writer::message(0).pack(&Writer::default()).text("another/1");
    assert_eq!(admitted(&other), Err(Refusal::Foreign), "another's protocol");
    let mut older = sound;
    older[2] = 0;
    assert_eq!(admitted(&Writer(older)), Err(Refusal::Foreign));
}
