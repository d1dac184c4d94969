use super::*;

fn allows(policy: &str, address: &str) -> bool {
    let controller = ControllerPorts::new(["10.9.9.9".parse().unwrap()], 7444, None);
    Policy::parse("policy.toml", policy).unwrap().allows(address.parse().unwrap(), &controller)
}

#[test]
fn never_in_any_spelling() {
    for address in [
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]:80",
        "[::169.254.169.254]:80",
        "[64:ff9b::169.254.169.254]:80",
        "[64:ff9b:1::169.254.169.254]:80",
        "[2002:a9fe:a9fe::1]:80",
        "[fd20:ce::254]:80",
        "[fd00:ec2::254]:80",
        "[fe80::1]:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::]:80",
        "255.255.255.255:80",
        "10.9.9.9:7444",
        "10.9.9.9:7443",
        "[::ffff:10.9.9.9]:7444",
    ] {
        assert!(!allows("", address), "{address}");
        assert!(!allows("[[allow]]\naddresses = ['0.0.0.0/0', '::/0']", address), "{address} with allow");
    }
    for address in ["10.9.9.9:6379", "10.9.9.8:7444", "127.0.0.1:7444", "[2001:db8::1]:80", "8.8.8.8:53"] {
        assert!(allows("", address), "{address}");
    }
}

#[test]
fn a_controller_on_this_host_is_denied_on_loopback() {
    let own: IpAddr = "10.0.0.5".parse().unwrap();
    let here = ControllerPorts::new([own], 7444, Some(own));
    let by_loopback = ControllerPorts::new(["::1".parse().unwrap()], 7444, Some("::1".parse().unwrap()));
    for address in ["127.0.0.1:7444", "127.8.8.8:7444", "[::1]:7444", "[::ffff:127.0.0.1]:7443"] {
        assert!(!Policy::default().allows(address.parse().unwrap(), &here), "{address}");
        assert!(!Policy::default().allows(address.parse().unwrap(), &by_loopback), "{address}");
    }
    assert!(Policy::default().allows("127.0.0.1:6379".parse().unwrap(), &here));
}

#[test]
fn deny_wins_and_allow_closes_the_rest() {
    let policy = "
        [[allow]]
        addresses = ['10.0.0.0/8', '2001:db8::/32']
        ports = [443, 6379]
        [[allow]]
        addresses = ['192.168.1.7']
        ports = '1024-2048'
        [[deny]]
        addresses = ['10.0.9.0/24']
    ";
    for address in ["10.1.2.3:443", "[::ffff:10.1.2.3]:6379", "[2001:db8::1]:443", "192.168.1.7:1024"] {
        assert!(allows(policy, address), "{address}");
    }
    for address in [
        "10.1.2.3:444",
        "10.0.9.1:443",
        "[::ffff:10.0.9.1]:443",
        "192.168.1.8:1024",
        "192.168.1.7:2049",
        "8.8.8.8:443",
        "[64:ff9b::8.8.8.8]:443",
    ] {
        assert!(!allows(policy, address), "{address}");
    }
}

#[test]
fn the_control_goes_with_what_is_allowed() {
    let allow = "[[allow]]\naddresses = ['10.0.0.0/8']\n";
    assert!(allows(allow, "192.0.2.1:6379") && allows(allow, "[2001:db8::1]:6379"));
    assert!(!allows(allow, "192.0.2.2:6379"));
    assert!(!allows(&format!("{allow}[[deny]]\naddresses = ['192.0.2.0/24']"), "192.0.2.1:6379"));
}

#[test]
fn control_targets_are_what_the_policy_lets_be_probed() {
    let text = "[[allow]]\naddresses = ['10.0.0.0/8']\n[[control]]\ntarget = 'tcp://10.0.0.2:53'\n\
                [[control]]\ntarget = 'https://status.internal'";
    let policy = Policy::parse("p.toml", text).unwrap();
    let targets: Vec<String> = policy.controls().map(ToString::to_string).collect();
    assert_eq!(targets, ["tcp://10.0.0.2:53", "https://status.internal:443"]);
}

#[test]
fn a_file_goes_where_it_is_bound_and_nowhere_else() {
    let policy = "
        [[files]]
        paths = ['/etc/shop/client.pem', '/etc/shop/client.key']
        addresses = ['10.0.3.0/24', '2001:db8::/32']
        ports = [6380]
        [[files]]
        paths = ['/etc/ca.pem']
        addresses = ['10.0.0.0/8']
    ";
    let may = |policy: &str, file: &str, address: &str| {
        Policy::parse("policy.toml", policy).unwrap().may_use(Path::new(file), address.parse().unwrap())
    };
    for (file, address) in [
        ("/etc/shop/client.pem", "10.0.3.7:6380"),
        ("/etc/shop/client.key", "[::ffff:10.0.3.7]:6380"),
        ("/etc/shop/client.key", "[2001:db8::7]:6380"),
        ("/etc/ca.pem", "10.9.9.8:1"),
    ] {
        assert!(may(policy, file, address), "{file} {address}");
        assert!(!may("", file, address), "{file} {address} without a rule");
    }
    for (file, address) in [
        ("/etc/shop/client.pem", "10.0.3.7:6379"),
        ("/etc/shop/client.pem", "10.0.4.7:6380"),
        ("/etc/shop/client.pem", "[64:ff9b::10.0.4.7]:6380"),
        ("/etc/shop//client.pem", "10.0.3.7:6380"),
        ("/etc/shop/./client.pem", "10.0.3.7:6380"),
        ("/etc/shop/../shop/client.pem", "10.0.3.7:6380"),
        ("/etc/shop/client.pem/", "10.0.3.7:6380"),
        ("etc/shop/client.pem", "10.0.3.7:6380"),
        ("/etc/shop/Client.pem", "10.0.3.7:6380"),
        ("/etc/shop", "10.0.3.7:6380"),
        ("/etc/ca.pem", "8.8.8.8:443"),
    ] {
        assert!(!may(policy, file, address), "{file} {address}");
    }
}

#[test]
fn errors_name_the_line() {
    for (text, line, says) in [
        ("max_concurrent = 64\nmax_per_seconds = 2", 2, "unknown field"),
        ("[[allow]]\naddresses = ['10.0.0.0/8']\nport = 1", 3, "unknown field"),
        ("\nmax_concurrent = 3000", 2, "max_concurrent is 3000; it can be set from 1 to 2048"),
        ("max_per_second = 0", 1, "from 1 to 5000"),
        ("[[deny]]\naddresses = ['10.0.0.0/33']", 2, "not an address range"),
        ("[[deny]]\naddresses = ['10.0.0.1/8']", 2, "did you mean 10.0.0.0/8?"),
        ("[[deny]]\naddresses = ['::ffff:10.0.0.0/104']", 2, "IPv4"),
        ("[[deny]]\naddresses = ['::/0']\nports = '9-1'", 3, "not a range of ports"),
        ("[[deny]]\naddresses = ['::/0']\nports = [70000]", 3, "ports are"),
        ("[[deny]]\naddresses = ['::/0']\nports = []", 3, "at least one port"),
        ("[[deny]]\nports = [1]", 1, "missing field"),
        ("[[control]]\ntarget = 'tcp://169.254.169.254:80'", 2, "denies the control target"),
        ("[[control]]\ntarget = 'tcp://10.0.0.2:53'\n[[deny]]\naddresses = ['10.0.0.0/8']", 2, "itself"),
        ("[[allow]]\naddresses = ['10.0.0.0/8']\n[[control]]\ntarget = 'tcp://8.8.8.8:53'", 4, "denies"),
        ("[[control]]\ntarget = '10.0.0.2:53'", 2, ""),
        ("[[control]]\ntargets = 'tcp://10.0.0.2:53'", 2, "unknown field"),
        (&"[[control]]\ntarget = 'tcp://10.0.0.2:53'\n".repeat(9), 18, "at most 8"),
        ("[[files]]\naddresses = ['10.0.0.1']", 1, "missing field `paths`"),
        ("[[files]]\npaths = ['/a']\nport = 1", 3, "unknown field"),
        ("[[files]]\npaths = ['/a', 'etc/key']", 2, "'etc/key' is not an absolute path"),
        ("[[files]]\npaths = ['/a/../b']", 2, "without '.', '..' and '//'"),
        ("[[files]]\npaths = ['/a/']", 2, "not the plain path"),
        ("[[files]]\npaths = ['/']", 2, "not the plain path"),
    ] {
        let error = Policy::parse("p.toml", text).unwrap_err();
        assert_eq!((error.file.as_str(), error.line), ("p.toml", line), "{text}: {error}");
        assert!(error.message.contains(says), "{text}: {error}");
    }
}
