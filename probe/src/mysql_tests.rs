use super::*;

/// As MariaDB 10.11 sends it, with its own capabilities at the end of what is reserved.
fn mariadb() -> Vec<u8> {
    let said = include_bytes!("../../fuzz/corpus/mysql/mariadb_10_11_greeting");
    // The first byte is the fuzzer's.
    said[1..].to_vec()
}

/// A greeting as MySQL 8 sends it, byte by byte from its documentation.
fn mysql(capabilities: u32, plugin: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = capabilities.to_le_bytes();
    let head =
        [b"\x0a8.4.3\0".as_slice(), &[9, 0, 0, 0], b"abcdefgh\0", &[a, b, 0xff, 2, 0, c, d, 21], &[0; 10]].concat();
    [&head, b"ijklmnopqrst\0".as_slice(), plugin].concat()
}

const ALL: u32 = WANTED | SSL;

#[test]
fn greetings_are_read_strictly() {
    let said = mariadb();
    let Packet::Whole(payload) = packet(&said, 0) else { panic!("not a packet: {}", text::escape_bytes(&said)) };
    let read = greeting(payload).unwrap();
    assert_eq!(
        (read.capabilities & (WANTED & !LONG_PASSWORD), read.plugin.as_slice()),
        (WANTED & !LONG_PASSWORD, NATIVE)
    );
    for cut in 0..said.len() {
        assert_eq!(packet(&said[..cut], 0), Packet::Incomplete, "{cut}");
    }
    for cut in 0..payload.len() {
        assert_eq!(greeting(&payload[..cut]), None, "{cut}");
    }
    let good = mysql(ALL, b"caching_sha2_password\0");
    assert_eq!(greeting(&good), Some(Greeting { capabilities: ALL, plugin: b"caching_sha2_password".to_vec() }));
    let old = mysql(ALL & !PLUGIN_AUTH, b"");
    assert_eq!(greeting(&old).map(|g| g.plugin), Some(NATIVE.to_vec()));
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    for bad in [
        mysql(ALL & !PROTOCOL_41, b"x\0"),
        mysql(ALL & !SECURE_CONNECTION, b"x\0"),
        mysql(ALL, b"x"),
        mysql(ALL, b"\0"),
        mysql(ALL, b"x\0y"),
        mysql(ALL & !PLUGIN_AUTH, b"x\0"),
        // Version 9; a version that is no text; the filler; what is reserved; the end of the nonce.
        changed(0, 9),
        changed(2, 0x1b),
        changed(19, 1),
        changed(28, 1),
        changed(50, 1),
        b"".to_vec(),
    ] {
        assert_eq!(greeting(&bad), None, "{}", text::escape_bytes(&bad));
    }
}

#[test]
fn packets_are_whole_numbered_and_alone() {
    for (bytes, want) in [
        (&b""[..], Packet::Incomplete),
        (b"\x01\0\0", Packet::Incomplete),
        (b"\x01\0\0\0", Packet::Incomplete),
        (b"\x01\0\0\0x", Packet::Whole(b"x")),
        (b"\x01\0\0\0xy", Packet::Foreign),
        (b"\x01\0\0\x01x", Packet::Foreign),
        (b"\0\0\0\0", Packet::Foreign),
        (b"\x01\x08\0\0", Packet::Foreign),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Packet::Foreign),
        (b"220 mail ESMTP\r\n", Packet::Foreign),
        (b"\xff\xff\xff\0", Packet::Foreign),
    ] {
        assert_eq!(packet(bytes, 0), want, "{}", text::escape_bytes(bytes));
    }
}

#[test]
fn errors_and_what_they_mean() {
    for (payload, at_once, of_login) in [
        (&b"\xff\x10\x04Too many connections"[..], Some("status_unexpected"), Some("status_unexpected")),
        (b"\xff\x69\x04Host '10.0.0.1' is blocked", Some("status_unexpected"), Some("status_unexpected")),
        (b"\xff\x6a\x04Host '10.0.0.1' is not allowed", Some("status_unexpected"), Some("status_unexpected")),
        (b"\xff\x1d\x04#08S01Server shutdown in progress", Some("not_ready"), Some("not_ready")),
        (b"\xff\xd8\x0b#HY000The server is currently in offline mode", Some("not_ready"), Some("not_ready")),
        (b"\xff\x15\x04#28000Access denied for user", Some("protocol_unexpected"), None),
        (b"\xff\xa2\x06#28000Access denied for user", Some("protocol_unexpected"), None),
        (b"\xff\x57\x0c#HY000Connections using insecure transport", Some("protocol_unexpected"), None),
        // Bad handshake: the server did not understand, and counts it.
        (b"\xff\x13\x04#08S01Bad handshake", Some("protocol_unexpected"), Some("protocol_unexpected")),
    ] {
        let refusal = refusal(payload).unwrap();
        assert_eq!(refusal.at_once().outcome.reason(), at_once, "{refusal:?}");
        assert_eq!(refusal.of_login().err().and_then(|f| f.outcome.reason()), of_login, "{refusal:?}");
    }
    for bad in [
        &b""[..],
        b"\xff",
        b"\xff\x15",
        b"\xff\x15\x04",
        b"\xff\x15\x04#2800",
        b"\xff\x15\x04#28000",
        b"\xff\x15\x04#28\x1b00words",
        b"\xff\x01\0words",
        b"\xfe\x15\x04#28000Access denied",
    ] {
        assert_eq!(refusal(bad), None, "{}", text::escape_bytes(bad));
    }
}

#[test]
fn the_answer_holds_a_name_and_no_password() {
    let sent = answer(WANTED, b"caching_sha2_password");
    assert_eq!(&sent[..9], b"\x01\x82\x08\0\0\0\0\x01\x21");
    assert_eq!(&sent[9..32], &[0; 23]);
    assert_eq!(&sent[32..], b"preflight\0\x01\0caching_sha2_password\0");
    assert_eq!(&answer(WANTED & !PLUGIN_AUTH, NATIVE)[32..], b"preflight\0\0");
    assert_eq!(framed(1, &sent).get(..4), Some(&[66, 0, 0, 1][..]));
}
