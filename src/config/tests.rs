use super::*;

fn sources(flags: &[(&str, &str)], env: &[(&str, &str)], file: Option<&str>) -> Sources {
    let map =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut flags: std::collections::BTreeMap<String, String> = map(flags);
    for (key, value) in [("node-id", "n1"), ("data-dir", "/d")] {
        flags.entry(key.to_owned()).or_insert(value.to_owned());
    }
    Sources {
        flags,
        environment: map(env),
        file: file.map(|text| (PathBuf::from("c.toml"), text.to_owned())),
        ..Sources::default()
    }
}

fn refused(flags: &[(&str, &str)], env: &[(&str, &str)], file: Option<&str>) -> ConfigError {
    Config::from_sources(&sources(flags, env, file)).unwrap_err()
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let of = |flags: &[(&str, &str)], env: &[(&str, &str)], file| {
        Config::from_sources(&sources(flags, env, file)).unwrap().settings.num_shards
    };
    let (flag, env, file) =
        ([("num-shards", "1")], [("RUVECTOR_CLUSTER_NUM_SHARDS", "2")], Some("num_shards = 3"));
    assert_eq!(of(&flag, &env, file), 1);
    assert_eq!(of(&[], &env, file), 2);
    assert_eq!(of(&[], &[], file), 3);
    assert_eq!(of(&[], &[], None), 64);
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = Config::from_sources(&sources(&[], &[], None)).unwrap();
    assert_eq!(config.listen, "127.0.0.1:7000".parse().unwrap());
    assert_eq!(config.peer_listen, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(config.settings.replication_factor, 3);
    assert_eq!(config.settings.failure_timeout_ms, 5_000);
    assert_eq!(config.settings.lease_ms, 4_000);
    assert_eq!(config.settings.heartbeat_interval_ms, 1_000);
    assert_eq!(config.max_voters, 5);
    assert_eq!((config.seeds.len(), config.bootstrap_expect), (0, None));
}

#[test]
fn an_error_names_the_key_as_it_was_typed() {
    assert_eq!(refused(&[("num-shards", "0")], &[], None).key, "--num-shards");
    let env = [("RUVECTOR_CLUSTER_FAILURE_TIMEOUT", "soon")];
    assert_eq!(refused(&[], &env, None).key, "RUVECTOR_CLUSTER_FAILURE_TIMEOUT");
    assert_eq!(refused(&[], &[], Some("max_voters = 0")).key, "max_voters in c.toml");
    assert_eq!(refused(&[], &[], Some("colour = 1")).key, "colour in c.toml");
    assert_eq!(refused(&[], &[], Some("num_shards = 1.5")).key, "num_shards in c.toml");
    assert_eq!(refused(&[], &[], Some("not toml")).key, "c.toml");
    assert_eq!(refused(&[("node-id", "a b")], &[], None).key, "--node-id");
    assert_eq!(refused(&[("seeds", "a:1,b")], &[], None).key, "--seeds");
    assert_eq!(refused(&[("heartbeat-interval", "3s")], &[], None).key, "--heartbeat-interval");
    assert_eq!(refused(&[("election-timeout", "50ms")], &[], None).key, "--election-timeout");
    assert_eq!(refused(&[("log-format", "xml")], &[], None).key, "--log-format");
    assert_eq!(refused(&[], &[("RUVECTOR_CLUSTER_GOSSIP", "yes")], None).key, "RUVECTOR_CLUSTER_GOSSIP");
}

#[test]
fn gossip_is_on_unless_it_is_switched_off() {
    let of = |flags: &[(&str, &str)], file| Config::from_sources(&sources(flags, &[], file)).unwrap().gossip;
    assert!(of(&[], None));
    assert!(!of(&[("gossip", "off")], None));
    assert!(!of(&[], Some("gossip = \"off\"")));
}

#[test]
fn what_is_required_is_asked_for() {
    let error = Config::from_sources(&Sources::default()).unwrap_err();
    assert_eq!((error.key.as_str(), error.why.as_str()), ("--node-id", "is required"));
}

#[test]
fn a_listener_that_is_not_loopback_needs_to_be_called_insecure() {
    assert_eq!(refused(&[("listen", "10.0.0.1:7000")], &[], None).key, "--listen");
    assert_eq!(refused(&[("peer-listen", "10.0.0.1:8000")], &[], None).key, "--peer-listen");
    let open = [("listen", "10.0.0.1:7000"), ("insecure-listen", "true")];
    assert!(Config::from_sources(&sources(&open, &[], None)).is_ok());
}

#[test]
fn an_unspecified_listener_needs_an_address_to_tell() {
    let open = [("listen", "0.0.0.0:7000"), ("insecure-listen", "true")];
    assert_eq!(refused(&open, &[], None).key, "--advertise");
    let told = [open[0], open[1], ("advertise", "db.example:7000")];
    let config = Config::from_sources(&sources(&told, &[], None)).unwrap();
    assert_eq!(config.advertise.as_deref(), Some("db.example:7000"));
    assert_eq!(config.peer_advertise.as_deref(), Some("db.example:8000"));
}

#[test]
fn a_port_without_room_for_the_peers_asks_for_peer_listen() {
    assert_eq!(refused(&[("listen", "127.0.0.1:65000")], &[], None).key, "--peer-listen");
}

#[test]
fn seeds_are_split_and_taken_once() {
    let config = Config::from_sources(&sources(&[], &[], Some(r#"seeds = ["a:1", "b:2", "a:1"]"#))).unwrap();
    assert_eq!(config.seeds, ["a:1", "b:2"]);
}

#[test]
fn durations_have_units() {
    for (text, ms) in [("500ms", 500), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000)] {
        assert_eq!(parse_duration_ms(text), Ok(ms));
    }
    for bad in ["5", "s", "-1s", "1.5s", "5 s", "", "99999999999999999999s", "18446744073709551615h"] {
        assert!(parse_duration_ms(bad).is_err(), "{bad}");
    }
}
