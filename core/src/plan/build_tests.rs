use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plan::CellDigest;

const INVENTORY: &str = "
regions:
  us: {vars: {dns: us-east-1}, fleets: {web-app: {}, worker: {min_agents: 1}}}
  eu: {vars: {dns: eu-west-1}, fleets: {web: {identity: {security_group: [sg-web]}}, worker: {}, batch: {}}}
  au: {fleets: {web: {}}}
  cn: {fleets: {web: {}}}
applications:
  shop: {fleets: {us: [web-app, worker], eu: [worker, web], au: [web]}}
  batch: {fleets: {eu: [batch]}}
";

fn inventory() -> Inventory {
    Inventory::parse("inventory.yaml", INVENTORY).unwrap()
}

/// Dependencies, each indented by two.
fn manifest(dependencies: &str) -> Manifest {
    let lines: String = dependencies.lines().flat_map(|line| ["  ", line, "\n"]).collect();
    Manifest::parse("preflight.yaml", &format!("application: shop\ndependencies:\n{lines}")).unwrap()
}

fn build(dependencies: &str, regions: &[&str]) -> Result<Plan, PlanError> {
    let regions: Vec<String> = regions.iter().map(|r| (*r).to_owned()).collect();
    Plan::build(&manifest(dependencies), &inventory(), &regions, false)
}

fn shown(plan: &Plan) -> Vec<String> {
    plan.cells.iter().map(|c| format!("{} {} {}", c.fleet, c.dependency, c.spec.target)).collect()
}

#[test]
fn regions_as_asked_dependencies_as_written_fleets_as_the_application_lists_them() {
    let plan = build("z: {target: \"redis://z.{region}\"}\na: {target: tcp://a:1}", &["eu", "us", "eu"]).unwrap();
    assert_eq!(plan.regions, ["eu", "us"]);
    assert_eq!(
        shown(&plan),
        [
            "eu/worker z redis://z.eu:6379",
            "eu/web z redis://z.eu:6379",
            "eu/worker a tcp://a:1",
            "eu/web a tcp://a:1",
            "us/web-app z redis://z.us:6379",
            "us/worker z redis://z.us:6379",
            "us/web-app a tcp://a:1",
            "us/worker a tcp://a:1",
        ]
    );
    let minimum: Vec<u32> = plan.cells[4..6].iter().map(|c| c.min_agents).collect();
    assert_eq!(minimum, [2, 1]);
    assert_eq!(plan.cells[1].stated.key().0, "security_group=sg-web");
    assert_eq!(plan.manifest_digest.len(), 71);
}

#[test]
fn all_regions_are_those_of_the_application() {
    let all = |asked: &[String]| Plan::build(&manifest("a: {target: tcp://a:1}"), &inventory(), asked, true);
    assert_eq!(all(&[]).unwrap().regions, ["us", "eu", "au"]);
    assert_eq!(all(&["au".to_owned()]).unwrap().regions, ["au", "us", "eu"]);
    assert!(matches!(all(&["mars".to_owned()]), Err(PlanError::UnknownRegion { .. })));
}

#[test]
fn excluded_fleets_are_shown_with_the_reason() {
    let plan =
        build("a: {target: tcp://a:1, fleets: {only: [worker], because: \"batch only\"}}", &["eu", "us"]).unwrap();
    assert_eq!(shown(&plan), ["eu/worker a tcp://a:1", "us/worker a tcp://a:1"]);
    let excluded: Vec<String> =
        plan.excluded.iter().map(|e| format!("{} {} {}", e.fleet, e.dependency, e.because)).collect();
    assert_eq!(excluded, ["eu/web a batch only", "us/web-app a batch only"]);
}

#[test]
fn a_dependency_that_no_fleet_of_a_region_uses_is_shown_and_needs_no_target_there() {
    let text = "a: {target: tcp://a:1}\nb: {targets: {us: tcp://b:1}, fleets: {only: [web-app], because: x}}";
    let plan = build(text, &["eu"]).unwrap();
    assert_eq!(shown(&plan), ["eu/worker a tcp://a:1", "eu/web a tcp://a:1"]);
    assert_eq!(plan.excluded.len(), 2);
}

#[test]
fn a_region_without_a_cell_is_an_error_and_never_a_plan() {
    let only = "a: {target: tcp://a:1, fleets: {only: [worker], because: x}}";
    let error = build(only, &["eu", "au"]).unwrap_err();
    assert_eq!(error, PlanError::NothingToProve { application: "shop".into(), region: "au".into() });
    assert!(error.fix().unwrap().contains("leave region au out"));
}

#[test]
fn what_is_not_known_is_named_with_what_is() {
    let a = "a: {target: tcp://a:1}";
    let named = |error: PlanError, what: &str, fix: &str| {
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.fix().is_some_and(|f| f.contains(fix)), "{error}: {:?}", error.fix());
    };
    named(build(a, &["eu1"]).unwrap_err(), "region 'eu1'", "did you mean 'eu'? known: us, eu, au, cn");
    named(build(a, &["e\u{202e}"]).unwrap_err(), "'e\\u{202e}'", "known: us");
    named(build(a, &["cn"]).unwrap_err(), "shop does not run in region cn", "known: us, eu, au");
    named(build(a, &[]).unwrap_err(), "no region is named", "--all-regions");
    let other = Manifest::parse("f", "application: shoop\ndependencies: {a: {target: tcp://a:1}}").unwrap();
    let of = |inventory: &Inventory| Plan::build(&other, inventory, &["eu".to_owned()], false).unwrap_err();
    named(of(&inventory()), "application 'shoop'", "did you mean 'shop'?");
    named(of(&Inventory::default()), "application 'shoop'", "apply an inventory");
}

#[test]
#[rustfmt::skip]
fn a_manifest_that_does_not_fit_the_inventory_is_pointed_to() {
    for (text, line, column, message, fix) in [
        ("a: {target: \"tcp://{dsn}:1\"}", 3, 15, "region eu has no value for {dsn}", "did you mean 'dns'?"),
        ("a: {targets: {us: tcp://a:1}}", 3, 16, "a has no target for region eu", "add 'eu: "),
        ("a: {targets: {eu: tcp://a:1, mars: tcp://a:1}}", 3, 32, "region mars", "known: us, eu, au, cn"),
        ("a: {target: tcp://a:1, fleets: {only: [wrker], because: x}}", 3, 42, "named wrker", "did you mean 'worker'?"),
        ("a: {target: tcp://a:1, fleets: {only: [batch], because: x}}", 3, 42, "named batch", "known: web, web-app, worker"),
        ("a: {target: tcp://10.0.0.1:1, families: both}", 3, 15, "10.0.0.1 is an IPv4 address, and families asks for IPv6", "families: any"),
        ("a: {target: \"tcp://[fd00::1]:1\", families: ipv4}", 3, 15, "is an IPv6 address, and families asks for IPv4", "families: any"),
        ("a: {target: \"tcp://{region}:{dns}\"}", 3, 15, "'tcp://eu:eu-west-1' in region eu", "vars"),
    ] {
        let Err(PlanError::Manifest(error)) = build(text, &["eu"]) else {
            panic!("{text}")
        };
        assert_eq!(
            (error.file.as_str(), error.line, error.column),
            ("preflight.yaml", line, column),
            "{error}"
        );
        assert!(error.message.contains(message), "{error}");
        assert!(error.fix.as_ref().is_some_and(|f| f.contains(fix)), "{error}");
    }
}

#[test]
fn options_reach_the_cell() {
    let text = "a: {target: rediss://a, timeout: 2s, connect_timeout: 300ms, require: encrypted, families: both, addresses: all, tls: {server_name: b}}";
    let spec = &build(text, &["eu"]).unwrap().cells[0].spec;
    assert_eq!((spec.timeout.0, spec.connect_timeout.0), (2_000, 300));
    let text = serde_json::to_string(spec).unwrap();
    assert!(
        text.contains(r#""require":"encrypted","families":"both","addresses":"all","tls":{"server_name":"b""#),
        "{text}"
    );
}

fn targets(urls: &[&str]) -> Vec<Target> {
    urls.iter().map(|url| url.parse().unwrap()).collect()
}

#[test]
fn ad_hoc_plans_probe_from_every_fleet_that_passes_the_filters() {
    let a = targets(&["tcp://a:1", "redis://b", "tcp://a:1"]);
    let ids = |region, fleet, application| {
        let plan = Plan::ad_hoc(&a, &inventory(), region, fleet, application).unwrap();
        assert_eq!(plan.cells.len() % 2, 0, "two targets");
        assert!(plan.cells.iter().all(|c| c.min_agents == 1 && c.application == Plan::AD_HOC));
        let mut fleets: Vec<String> = plan.cells.iter().map(|c| c.fleet.to_string()).collect();
        fleets.dedup();
        fleets.sort();
        fleets.dedup();
        fleets.join(" ")
    };
    assert_eq!(ids(None, None, None), "au/web cn/web eu/batch eu/web eu/worker us/web-app us/worker");
    assert_eq!(ids(Some("eu"), None, None), "eu/batch eu/web eu/worker");
    assert_eq!(ids(None, Some("worker"), None), "eu/worker us/worker");
    assert_eq!(ids(None, None, Some("batch")), "eu/batch");
    assert_eq!(ids(Some("eu"), Some("web"), Some("shop")), "eu/web");
    let plan = Plan::ad_hoc(&a, &inventory(), Some("eu"), Some("web"), None).unwrap();
    assert_eq!(shown(&plan), ["eu/web tcp://a:1 tcp://a:1", "eu/web redis://b:6379 redis://b:6379"]);
    assert_eq!(plan.cells[0].stated.key().0, "security_group=sg-web");
    assert_eq!(plan.regions, ["eu"]);
}

#[test]
fn an_ad_hoc_plan_is_never_empty() {
    let a = targets(&["tcp://a:1"]);
    let error = |region, fleet, application| Plan::ad_hoc(&a, &inventory(), region, fleet, application).unwrap_err();
    assert!(matches!(error(Some("ue"), None, None), PlanError::UnknownRegion { .. }));
    assert!(matches!(error(None, Some("wbe"), None), PlanError::UnknownFleet { .. }));
    assert!(matches!(error(None, None, Some("nope")), PlanError::UnknownApplication { .. }));
    let PlanError::UnknownFleet { known, .. } = error(Some("us"), Some("web"), None) else { panic!("fleet") };
    assert_eq!(known, ["web-app", "worker"]);
    assert_eq!(
        error(Some("cn"), None, Some("shop")).to_string(),
        "no fleet of the inventory is in region cn, running shop"
    );
    assert_eq!(Plan::ad_hoc(&[], &inventory(), None, None, None), Err(PlanError::NoTargets));
    assert!(matches!(Plan::ad_hoc(&a, &Inventory::default(), None, None, None), Err(PlanError::NoFleets { .. })));
}

#[test]
fn a_plan_has_a_limit() {
    let fleets = (0..21).map(|f| format!("f{f}, ")).collect::<Vec<_>>().concat();
    let inventory = format!(
        "regions: {{eu: {{fleets: {{{}}}}}}}\napplications: {{shop: {{fleets: {{eu: [{fleets}]}}}}}}",
        fleets.replace(',', ": ,")
    );
    let inventory = Inventory::parse("i", &inventory).unwrap();
    let plan = |count: usize| {
        let text = (0..count).map(|d| format!("d{d}: {{target: tcp://a:1}}\n")).collect::<Vec<_>>().concat();
        Plan::build(&manifest(&text), &inventory, &[], true).map(|plan| plan.cells.len())
    };
    assert_eq!(plan(476), Ok(9_996));
    assert_eq!(plan(477), Err(PlanError::TooManyCells));
}

#[test]
fn the_shipped_examples_make_the_plan_of_the_outage() {
    let manifest = Manifest::parse("preflight.yaml", include_str!("../../../examples/preflight.yaml")).unwrap();
    let inventory = Inventory::parse("inventory.yaml", include_str!("../../../examples/inventory.yaml")).unwrap();
    let plan = Plan::build(&manifest, &inventory, &[], true).unwrap();
    assert_eq!(plan.regions, ["us", "eu", "au"]);
    assert_eq!(plan.cells.len(), 9);
    assert_eq!(shown(&plan)[5], "eu/web ai-cache redis://ai-cache.eu-west-1.internal:6379");
}

/// Everything that a cell's digest must tell apart, as text of a manifest and inventory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct What {
    application: usize,
    region: usize,
    fleet: usize,
    dependency: usize,
    host: usize,
    port: u16,
    scheme: usize,
    timeout: u32,
    connect_timeout: u32,
    families: usize,
    addresses: usize,
    encrypted: bool,
    server_name: Option<usize>,
}

const WORDS: [&str; 3] = ["a", "b", "a.b"];

impl What {
    fn digest(&self) -> CellDigest {
        let (application, region, fleet) = (WORDS[self.application], WORDS[self.region], WORDS[self.fleet]);
        let inventory = format!(
            "regions: {{{region}: {{fleets: {{{fleet}: }}}}}}\napplications: {{{application}: {{fleets: {{{region}: [{fleet}]}}}}}}"
        );
        let name = self.server_name.map(|n| format!(", tls: {{server_name: {}}}", WORDS[n])).unwrap_or_default();
        let manifest = format!(
            "application: {application}\ndependencies: {{{}: {{target: {}://{}:{}, timeout: {}ms, connect_timeout: {}ms, families: {}, addresses: {}, require: {}{name}}}}}",
            WORDS[self.dependency],
            ["tls", "rediss"][self.scheme],
            WORDS[self.host],
            self.port,
            self.timeout,
            self.connect_timeout,
            ["any", "ipv4", "ipv6", "both"][self.families],
            ["all", "any"][self.addresses],
            if self.encrypted { "encrypted" } else { "connected" },
        );
        let manifest = Manifest::parse("m", &manifest).unwrap();
        let plan = Plan::build(&manifest, &Inventory::parse("i", &inventory).unwrap(), &[], true).unwrap();
        assert_eq!(plan.cells.len(), 1);
        plan.cells[0].digest()
    }
}

fn what() -> impl Strategy<Value = What> {
    let places = (0..3_usize, 0..3_usize, 0..3_usize, 0..3_usize, 0..3_usize, 1..4_u16, 0..2_usize);
    let options = (100..103_u32, 100..103_u32, 0..4_usize, 0..2_usize, any::<bool>(), prop::option::of(0..3_usize));
    (places, options).prop_map(|((application, region, fleet, dependency, host, port, scheme), o)| What {
        application,
        region,
        fleet,
        dependency,
        host,
        port,
        scheme,
        timeout: o.0,
        connect_timeout: o.1,
        families: o.2,
        addresses: o.3,
        encrypted: o.4,
        server_name: o.5,
    })
}

proptest! {
    /// Cells are the same if and only if everything about them is; one field apart is the hard case.
    #[test]
    fn the_digest_tells_cells_apart(one in what(), other in what(), field in 0..13_usize) {
        let mut near = one.clone();
        match field {
            0 => near.application = other.application,
            1 => near.region = other.region,
            2 => near.fleet = other.fleet,
            3 => near.dependency = other.dependency,
            4 => near.host = other.host,
            5 => near.port = other.port,
            6 => near.scheme = other.scheme,
            7 => near.timeout = other.timeout,
            8 => near.connect_timeout = other.connect_timeout,
            9 => near.families = other.families,
            10 => near.addresses = other.addresses,
            11 => near.encrypted = other.encrypted,
            _ => near.server_name = other.server_name,
        }
        // But for the dependency's name, which nobody probes.
        let renamed = |of: &What| What { dependency: one.dependency, ..of.clone() };
        prop_assert_eq!(one == renamed(&near), one.digest() == near.digest());
        prop_assert_eq!(one == renamed(&other), one.digest() == other.digest());
    }

    /// Every pair of fleet and dependency is a cell or excluded, exactly once; a region without cells is no plan.
    #[test]
    fn the_plan_covers_exactly_what_it_should(
        // For each region, which of four fleets run the application; for each dependency, which use it (none: all).
        runs in prop::collection::vec(prop::collection::btree_set(0..4_usize, 1..4), 1..4),
        uses in prop::collection::vec(prop::collection::btree_set(0..4_usize, 0..4), 1..5),
    ) {
        let every = "f0: , f1: , f2: , f3: ";
        let list = |set: &BTreeSet<usize>| set.iter().map(|f| format!("f{f}")).collect::<Vec<_>>().join(", ");
        let regions: Vec<String> = (0..runs.len()).map(|r| format!("r{r}: {{fleets: {{{every}}}}}")).collect();
        let fleets: Vec<String> = runs.iter().enumerate().map(|(r, set)| format!("r{r}: [{}]", list(set))).collect();
        let inventory = format!("regions: {{{}}}\napplications: {{shop: {{fleets: {{{}}}}}}}", regions.join(", "), fleets.join(", "));
        let inventory = Inventory::parse("i", &inventory).unwrap();
        let text: String = uses.iter().enumerate().map(|(d, set)| match set.len() {
            0 => format!("d{d}: {{target: tcp://d{d}:1}}\n"),
            _ => format!("d{d}: {{target: tcp://d{d}:1, fleets: {{only: [{}], because: x}}}}\n", list(set)),
        }).collect();

        let somewhere: BTreeSet<usize> = runs.iter().flatten().copied().collect();
        let known = uses.iter().all(|set| set.is_subset(&somewhere));
        let used = |d: usize, f: usize| uses[d].is_empty() || uses[d].contains(&f);
        let empty = runs.iter().any(|set| !(0..uses.len()).any(|d| set.iter().any(|f| used(d, *f))));

        match Plan::build(&manifest(&text), &inventory, &[], true) {
            Ok(plan) => {
                prop_assert!(known && !empty);
                let mut seen: BTreeMap<(String, String), Vec<bool>> = BTreeMap::new();
                for cell in &plan.cells {
                    seen.entry((cell.fleet.to_string(), cell.dependency.clone())).or_default().push(true);
                }
                for out in &plan.excluded {
                    seen.entry((out.fleet.to_string(), out.dependency.clone())).or_default().push(false);
                }
                let mut want = BTreeMap::new();
                for (r, set) in runs.iter().enumerate() {
                    for f in set {
                        for d in 0..uses.len() {
                            want.insert((format!("r{r}/f{f}"), format!("d{d}")), vec![used(d, *f)]);
                        }
                    }
                }
                prop_assert_eq!(seen, want);
            }
            Err(PlanError::Manifest(_)) => prop_assert!(!known),
            Err(PlanError::NothingToProve { .. }) => prop_assert!(known && empty),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn a_digest_is_sha256_in_hex() {
    // FIPS 180-4's example, as `printf abc | sha256sum` has it.
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(super::super::sha256(b"abc"), abc);
}
