//! Text that came from a target or from a manifest is data, however it is written.

use std::fmt::Write as _;
use std::time::Duration;

use preflight_tests::lab::Lab;
use preflight_tests::small::Small;

#[test]
fn a_hostile_banner_reaches_no_terminal() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let hostile = lab.host("hostile", &["10.9.0.66"]);
    hostile
        .says(6379, b"\x1b]0;owned\x07\x1b[2J\x1b[1;32mPASS\x1b[0m <script>alert(1)</script>\xff\xfe\xe2\x80\xae\r\n");
    small
        .controller
        .file("preflight.yaml", "application: app\ndependencies:\n  cache:\n    target: redis://10.9.0.66:6379\n");
    for format in ["table", "json", "markdown", "junit", "github"] {
        let words = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r1", "-o", format];
        let answer = small.controller.preflight(&words).expect_code(2);
        let text = answer.text();
        assert!(text.replace('\\', "").contains("protocol_unexpected"), "{text}");
        // No markup either: an escaped bracket is none.
        let markup = matches!(format, "markdown" | "junit") && text.replace("\\<", "").contains("<script");
        assert!(!markup, "{format}: {text}");
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{format}: {text:?}");
    }
    let words = ["probe", "redis://10.9.0.66:6379", "--region", "us"];
    let answer = small.controller.preflight(&words).expect_code(2);
    assert!(!answer.text().chars().any(|c| c.is_control() && c != '\n'), "{:?}", answer.text());
}

#[test]
fn a_manifest_that_is_a_bomb_is_refused_at_once_with_its_line() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let mut aliases = String::from("application: app\na: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, before) in ('b'..='k').zip('a'..) {
        let list = vec![format!("*{before}"); 10].join(", ");
        let _ = writeln!(aliases, "{name}: &{name} [{list}]");
    }
    let deep = format!("application: app\ndependencies: {}{}\n", "[".repeat(20_000), "]".repeat(20_000));
    let many: String = (0..100_000).fold(String::from("application: app\ndependencies:\n"), |mut all, n| {
        let _ = writeln!(all, "  d{n}:\n    target: tcp://10.0.0.1:1");
        all
    });
    let bidirectional = "application: app\ndependencies:\n  cache:\n    target: redis://10.9.0.1:6379\n    fleets: {only: [web], because: \"\u{202e}txt\"}\n";
    let lookalike = "application: app\ndependencies:\n  c\u{0430}che:\n    target: redis://10.9.0.1:6379\n";
    let bombs = [
        ("aliases", aliases.as_str()),
        ("depth", &deep),
        ("number", &many),
        ("direction", bidirectional),
        ("look-alike", lookalike),
    ];
    for (what, text) in bombs {
        small.controller.file("preflight.yaml", text);
        let answer = small.gate(&[]);
        assert_eq!(answer.code, 64, "{what}: {}", answer.text());
        assert!(answer.text().contains("preflight.yaml:"), "{what}: {}", answer.text());
        // Refused in 100 ms; the rest is for starting a command on a busy machine, in a debug build.
        assert!(answer.took < Duration::from_secs(3), "{what}: {:?}", answer.took);
    }
}

#[test]
fn an_empty_inventory_is_a_usage_error() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    for text in ["", "regions: {}\napplications: {}\n", "regions:\n  us:\n    fleets: {}\napplications: {}\n"] {
        small.controller.file("inventory.yaml", text);
        let answer = small.controller.preflight(&["inventory", "apply", "inventory.yaml"]);
        assert_eq!(answer.code, 64, "{text:?}: {}", answer.text());
    }
}

#[test]
fn without_any_inventory_the_gate_is_a_usage_error() {
    let lab = Lab::new();
    let controller = lab.controller();
    controller.file("preflight.yaml", preflight_tests::small::MANIFEST);
    let answer = controller.preflight(&preflight_tests::small::GATE).expect_code(64);
    assert!(answer.text().contains("inventory"), "{}", answer.text());
}

#[test]
fn results_go_to_stdout_and_nothing_is_coloured_off_a_terminal() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let words = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r1"];
    let answer = small.controller.preflight(&words).expect_code(0);
    assert!(answer.stdout.contains("cache") && answer.stdout.contains("pass"), "{}", answer.text());
    assert!(!answer.text().contains('\u{1b}'), "{:?}", answer.text());
}
