//! Absolute paths of somebody's machine, which no file may have.

/// Where people and build machines keep their checkouts. Split, so that this file is none.
const PLACES: [&str; 7] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/mn", "t/"),
    concat!("/tm", "p/"),
    concat!("/Us", "ers/"),
    concat!("C:", "\\"),
];

/// Absolute paths in a text that exist on one machine only.
pub(crate) fn foreign_places(text: &str) -> Vec<String> {
    let begins = |line: &str, place: &str| {
        line.match_indices(place).any(|(at, _)| {
            // `devices/tmp/x` and `https://host/root/` are no absolute paths.
            let before = line.get(..at).and_then(|rest| rest.chars().next_back());
            !before.is_some_and(|c| c.is_ascii_alphanumeric() || "._-/}".contains(c))
        })
    };
    let lines = text
        .lines()
        .filter(|line| PLACES.iter().any(|place| begins(line, place)));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn absolute_paths_of_a_machine_are_found() {
    for place in PLACES {
        let text = format!("first\n  let path = \"{place}someone/file\";\n");
        assert_eq!(foreign_places(&text).len(), 1, "{place}");
    }
    for fine in [
        "a/dev/kvm",
        "/dev/kvm",
        "/sys/module",
        "https://example.org/root/x",
        "guest/tmp/x",
    ] {
        assert!(foreign_places(fine).is_empty(), "{fine}");
    }
}
