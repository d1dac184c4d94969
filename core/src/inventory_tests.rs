use proptest::prelude::*;

use super::*;

const GOOD: &str = r"
regions:
  eu:
    vars: {dns: eu-west-1, port: 6379, version: 1.10}
    fleets:
      web: {identity: {security_group: [sg-web, sg-all], label.app.kubernetes.io/name: [shop]}}
      worker: {min_agents: 1}
      cron:
  no: {fleets: {web: {}}}
applications:
  shop:
    fleets: {eu: [worker, web], no: [web]}
";

fn parse(text: &str) -> Result<Inventory, Diagnostic> {
    Inventory::parse("inventory.yaml", text)
}

#[test]
fn every_key_of_the_contract() {
    let inventory = parse(GOOD).unwrap();
    let eu = inventory.region("eu").unwrap();
    let vars: Vec<(&str, &str)> = eu.vars.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(vars, [("dns", "eu-west-1"), ("port", "6379"), ("version", "1.10")]);
    assert_eq!(
        eu.fleet("web").unwrap().identity.key().0,
        "label.app.kubernetes.io/name=shop security_group=sg-all,sg-web"
    );
    let agents: Vec<(String, u32)> = inventory.fleets().map(|(id, fleet)| (id.to_string(), fleet.min_agents)).collect();
    let want = [("eu/web", 2), ("eu/worker", 1), ("eu/cron", 2), ("no/web", 2)];
    assert_eq!(agents, want.map(|(id, min)| (id.to_owned(), min)));
    let shop = inventory.application("shop").unwrap();
    assert_eq!(shop.fleets_in("eu").unwrap().iter().map(Name::as_str).collect::<Vec<_>>(), ["worker", "web"]);
    assert_eq!(shop.fleets_in("us"), None);
    assert!(inventory.fleet(&FleetId { region: "eu".into(), fleet: "cron".into() }).is_some());
    assert!(inventory.fleet(&FleetId { region: "no".into(), fleet: "cron".into() }).is_none());
}

#[test]
fn an_inventory_may_know_no_application_yet() {
    let inventory = parse("regions: {eu: {fleets: {web: {}}}}").unwrap();
    assert!(inventory.applications().is_empty());
    assert_eq!(Inventory::default().fleets().count(), 0);
}

#[test]
#[rustfmt::skip]
fn as_a_person_gets_it_wrong() {
    let region = |lines: &str| format!("regions:\n  eu:\n    {lines}\n");
    let app = |lines: &str| format!("regions: {{eu: {{fleets: {{web: }}}}}}\napplications:\n  shop: {lines}\n");
    for (text, line, column, message, fix) in [
        (String::new(), 1, 1, "no content", "regions:"),
        ("regions: {}".into(), 1, 10, "no regions", "regions:"),
        ("regions:".into(), 1, 8, "must be a mapping", "regions:"),
        ("applications: {}".into(), 1, 1, "'regions' is missing", "add 'regions"),
        ("region: {}".into(), 1, 1, "unknown key 'region'", "write 'regions'"),
        ("regions: {EU: {fleets: {a: }}}".into(), 1, 11, "'E'", "lower case: eu"),
        ("regions: {eu: {fleets: {a: }}, eu: {fleets: {a: }}}".into(), 1, 32, "second time", "remove"),
        (region("fleets: {}"), 3, 13, "region eu has no fleets", "web"),
        (region("vars: {}"), 3, 5, "'fleets' is missing", "add 'fleets"),
        (region("fleets: [web]"), 3, 13, "must be a mapping", "fleets: {web: {}}"),
        (region("fleets: {Web: {}}"), 3, 14, "'W'", "web"),
        (region("fleets: {web: {}, web: {}}"), 3, 23, "second time", "remove"),
        (region("fleets: {web: {min_agent: 1}}"), 3, 20, "unknown key 'min_agent'", "write 'min_agents'"),
        (region("fleets: {web: {min_agents: 0}}"), 3, 32, "'0'", "1 to 100"),
        (region("fleets: {web: {min_agents: 101}}"), 3, 32, "'101'", "1 to 100"),
        (region("fleets: {web: {min_agents: 0x2}}"), 3, 32, "'0x2'", "1 to 100"),
        (region("fleets: {web: {min_agents: }}"), 3, 30, "a value is missing", "leave the key out"),
        (region("fleets: {web: {identity: {}}}"), 3, 30, "states nothing", "leave identity out"),
        (region("fleets: {web: {identity: {security_group: []}}}"), 3, 47, "no values", "at least one"),
        (region("fleets: {web: {identity: {security_group: sg-web}}}"), 3, 47, "must be a list", "[a, b]"),
        (region("fleets: {web: {identity: {address: [10.0.0.1]}}}"), 3, 31, "host to host", "security_group"),
        (region("fleets: {web: {identity: {a b: [c]}}}"), 3, 31, "'a b' is not an attribute", "letters"),
        (region("fleets: {web: {identity: {a: ['b, c']}}}"), 3, 35, "not a value", "commas"),
        (region("fleets: {web: {identity: {a: [\"b\\u200b\"]}}}"), 3, 35, "b\\u{200b}", "visible"),
        (region("vars: {region: x}\n    fleets: {web: {}}"), 3, 12, "always", "another name"),
        (region("vars: {Dns: x}\n    fleets: {web: {}}"), 3, 12, "'D'", "dns"),
        (app("{}"), 3, 9, "'fleets' is missing", "add 'fleets"),
        (app("{fleets: {}}"), 3, 18, "names no fleets", "name the fleets"),
        (app("{fleets: {eu: []}}"), 3, 23, "shop in region eu names no fleets", "leave it out"),
        (app("{fleets: {ue: [web]}}"), 3, 19, "region 'ue'", "did you mean 'eu'? known: eu"),
        (app("{fleets: {eu: [wbe]}}"), 3, 24, "region eu has no fleet 'wbe'", "did you mean 'web'? known: web"),
        (app("{fleets: {eu: [web, web]}}"), 3, 29, "twice", "remove"),
        (app("{fleets: {eu: web}}"), 3, 23, "must be a list", "[a, b]"),
        (app("{fleets: [web]}"), 3, 18, "must be a mapping", "shop"),
    ] {
        let error = parse(&text).expect_err(&text);
        assert_eq!((error.line, error.column), (line, column), "{text}\n{error}");
        assert!(error.message.contains(message), "{text}\n{error}");
        assert!(error.fix.as_ref().is_some_and(|f| f.contains(fix)), "{text}\n{error}");
    }
}

#[test]
fn no_value_of_a_var_can_change_what_a_url_means() {
    for value in [
        "", ".", "a.", "-a", "a/b", "a:1", "a@b", "a?b", "a#b", "[::1]", "a b", "{region}", "a%2f", "\u{430}", "a\\\\b",
    ] {
        let text = format!("regions:\n  eu:\n    vars: {{dns: \"{value}\"}}\n    fleets: {{web: {{}}}}\n");
        let error = parse(&text).expect_err(&text);
        assert_eq!((error.line, error.column), (3, 17), "{error}");
        assert!(error.message.contains("could change what a URL means"), "{error}");
    }
}

#[test]
fn the_schema_knows_the_keys_that_the_parser_knows() {
    let schema = schema();
    for (of, keys) in [("Region", "vars fleets"), ("Fleet", "identity min_agents"), ("Application", "fleets")] {
        for key in keys.split(' ') {
            assert!(schema["$defs"][of]["properties"][key]["description"].is_string(), "{of} {key}: {schema:#}");
        }
        assert_eq!(schema["$defs"][of]["additionalProperties"], false, "{of}");
    }
}

#[test]
fn the_shipped_example() {
    let inventory = parse(include_str!("../../examples/inventory.yaml")).unwrap();
    let fleets: Vec<String> = inventory.fleets().map(|(id, _)| id.to_string()).collect();
    let want = [
        "us/web-rest",
        "us/web-mobile",
        "us/web-messenger",
        "us/web-app",
        "us/worker",
        "eu/web",
        "eu/worker",
        "au/web",
        "au/worker",
    ];
    assert_eq!(fleets, want);
}

proptest! {
    #[test]
    fn parsing_never_panics(at in 0..GOOD.len(), len in 0..20_usize, new in "\\PC{0,6}") {
        let text = format!("{}{new}{}", &GOOD[..at], &GOOD[(at + len).min(GOOD.len())..]);
        if let Err(error) = parse(&text) {
            prop_assert!(error.line >= 1 && error.column >= 1 && error.fix.is_some());
        }
    }
}
