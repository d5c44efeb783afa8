//! Files: what arrives, what is refused, and that they say the same as the command line.

#![allow(clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Result<NvmeOptions, ConfigFileError> {
    let mut options = NvmeOptions::default();
    ConfigFile::parse(Path::new("a.toml"), text)?.apply(&mut options)?;
    Ok(options)
}

/// The same, but for where it was said.
fn anonymous(options: NvmeOptions) -> NvmeOptions {
    NvmeOptions {
        given: BTreeMap::new(),
        ..options
    }
}

fn listed(text: &str) -> NvmeOptions {
    let mut options = NvmeOptions::default();
    options
        .apply(text)
        .unwrap_or_else(|error| panic!("{error}"));
    anonymous(options)
}

#[test]
fn a_file_says_what_the_command_line_says() {
    let text = "
# Two namespaces that differ.
[[nvme]]
lba = \"4K\"
mdts = 1_048_576
queues = 8
awun = \"4b\"
nawun = 0x8000
lint = true
seed = 18446744073709551615
version = \"2.1\"
serial = \"a,b = \\\"c\\\"\"

[[nvme.namespace]]
size = \"64M\"
mam = true
nabsn = \"64K\"

[[nvme.namespace]]
size = 1073741824
lba = 512
mam = 0
formats = [512, \"4K\"]
";
    let list = "lba=4K,mdts=1M,queues=8,awun=4b,nawun=32K,lint=on,seed=18446744073709551615,\
                version=2.1,serial=a,,b = \"c\",namespaces=2,ns1.size=64M,ns1.mam=1,ns1.nabsn=64K,\
                ns2.size=1G,ns2.lba=512,ns2.mam=0,ns2.formats=512:4K";
    let options = parsed(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(options.given.len(), 17);
    assert_eq!(
        options.given.get("ns2.lba"),
        Some(&Origin::File {
            path: "a.toml".into(),
            line: 21
        })
    );
    assert_eq!(anonymous(options), listed(list));
}

#[test]
fn the_command_line_comes_after_the_file_key_by_key() {
    let mut options = parsed("[[nvme]]\nlba = \"4K\"\nqueues = 8\n").expect("valid");
    options.apply("lba=512,ns2.lba=16K").expect("valid");
    assert_eq!(anonymous(options), listed("lba=512,queues=8,ns2.lba=16K"));
}

#[test]
fn each_mistake_is_told_with_its_line_key_value_and_rule() {
    for (text, words) in [
        ("[[nvme]]\nlba = 513", "a.toml:2: lba = 513: "),
        ("[[nvme]]\nlba = \"513\"", "power of two"),
        (
            "[[nvme]]\n\nlba = 4096.0",
            "a.toml:3: lba = 4096.0: write bytes as a number",
        ),
        ("[[nvme]]\nlba = -512", "lba = -512: `-512` is not a size"),
        ("[[nvme]]\nqueues = \"8\"", "queues = \"8\": write a whole"),
        ("[[nvme]]\nformats = [512, 4.5]", "write bytes as a number"),
        ("[[nvme]]\nformats = true", "write sizes in brackets"),
        ("[[nvme]]\nformats = []", "`` is not a size"),
        ("[[nvme]]\nqueues = 0", "queues = 0: give a whole number"),
        ("[[nvme]]\nlint = 3", "lint = 3: give off or on"),
        ("[[nvme]]\nlint = []", "lint = []: write true or false"),
        (
            "[[nvme]]\nversion = 1.4",
            "version = 1.4: write it in quotes",
        ),
        (
            "[[nvme]]\nqueus = 8",
            "queus = 8: there is no such key; did you mean queues?",
        ),
        ("[[nvme]]\nns2.lba = 512", "[[nvme.namespace]]"),
        (
            "[[nvme]]\nlba = 512\nlba = 4096",
            "a.toml:3: not TOML: duplicate key",
        ),
        ("[[nvme]]\nlba = \n", "a.toml:2: not TOML"),
        (
            "[nvme]\nlba = 512",
            "a.toml:1: write [[nvme]], once for each controller",
        ),
        ("nvme = 3", "write [[nvme]]"),
        (
            "[[nvme]]\n[nvme.namespace]\nlba = 512",
            "write [[nvme.namespace]]",
        ),
        (
            "[[nvme]]\n[[nvm]]",
            "a.toml:2: there is no `nvm`; a controller is [[nvme]]",
        ),
        ("", "a.toml:1: there is no controller"),
        ("[[nvme]]\n[[nvme]]", "a.toml:2: a second [[nvme]]"),
        (
            "[[nvme]]\n[[nvme.namespace]]\nqueues = 3",
            "a.toml:3: queues = 3: queues is of the whole controller: move it up",
        ),
        (
            "[[nvme]]\n[[nvme.namespace]]\nlbaa = 3",
            "lbaa = 3: there is no such key; did you mean lba?",
        ),
        (
            "[[nvme]]\nnamespaces = 1\n[[nvme.namespace]]\n[[nvme.namespace]]\nlba=512",
            "a.toml:5: ns2.lba = 512: there are 1 namespaces",
        ),
        (
            "[[nvme]]\n[[nvme.namespace]]\nlba=512\n[[nvme.namespace]]\nlba=4096\nnawun = \"6K\"",
            "a.toml:6: ns2.nawun = 6144: a whole number of logical blocks",
        ),
        (
            "[[nvme]]\nawun = \"2b\"\nawupf = \"4b\"",
            "a.toml:3: awupf = 4b: what is atomic",
        ),
    ] {
        let checked = parsed(text).and_then(|options| Ok(options.check()?));
        let error = checked.expect_err(text).to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
    let missing = ConfigFile::read(Path::new("/none/such.toml")).expect_err("missing");
    assert!(missing.to_string().contains("--config /none/such.toml"));
}

/// A value of a form, as the command line has it.
fn value(form: &Form) -> BoxedStrategy<String> {
    match form {
        Form::Size(_) => (0..1u64 << 50).prop_map(|n| n.to_string()).boxed(),
        Form::Sizes(_) => prop::collection::vec(0..1u64 << 50, 1..6)
            .prop_map(|sizes| {
                sizes
                    .iter()
                    .map(u64::to_string)
                    .collect::<Vec<_>>()
                    .join(":")
            })
            .boxed(),
        Form::Extent(_) => prop_oneof![
            (1..1u64 << 50).prop_map(|n| n.to_string()),
            (1..u32::MAX).prop_map(|n| format!("{n}b")),
            (1..64u32).prop_map(|n| format!("{n}K")),
        ]
        .boxed(),
        Form::Number(least, most) => (*least..=*most).prop_map(|n| n.to_string()).boxed(),
        Form::Flag(words) => prop::sample::select(words.to_vec())
            .prop_map(str::to_string)
            .boxed(),
        Form::Word(words) => prop::sample::select(words())
            .prop_map(str::to_string)
            .boxed(),
        // Whatever a person may type, what either notation treats specially included.
        Form::Text(_) => prop_oneof!["\\PC{1,40}", "[,=\"\\\\#\\n\\t\u{7f}a]{1,10}"].boxed(),
    }
}

/// A key with a value, `nsN.` before it for some.
fn setting() -> impl Strategy<Value = (String, String)> {
    let namespace: Vec<_> = NAMESPACE_KEYS
        .iter()
        .flat_map(|row| {
            ["", "ns1.", "ns2.", "ns5."].map(|prefix| {
                let key = format!("{prefix}{}", row.name);
                value(&row.form)
                    .prop_map(move |value| (key.clone(), value))
                    .boxed()
            })
        })
        .collect();
    let controller = CONTROLLER_KEYS.iter().map(|row| {
        let value = value(&row.form);
        value
            .prop_map(|value| (row.name.to_string(), value))
            .boxed()
    });
    let all: Vec<_> = controller.chain(namespace).collect();
    prop::strategy::Union::new(all)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Options become a file and a list that say the same.
    #[test]
    fn options_survive_a_file_and_a_list(settings in prop::collection::vec(setting(), 0..30)) {
        let mut options = NvmeOptions::default();
        for (key, value) in settings {
            options.set(&key, &value, Origin::CommandLine).expect("a value of its form");
        }
        let options = anonymous(options);
        let text = options.to_toml();
        let again = parsed(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        prop_assert_eq!(&anonymous(again), &options, "{}", text);
        let list = options.to_list();
        prop_assert_eq!(&listed(&list), &options, "{}", list);
    }

    /// Files that are damaged anywhere are refused or read, with an error that names the file.
    #[test]
    fn damaged_files_do_no_harm(at in 0..600usize, with in "\\PC{0,3}") {
        let mut text = listed("namespaces=2,ns2.lba=4K,nawun=4b").to_toml();
        let at = at.min(text.len());
        text.insert_str(at, &with);
        if let Err(error) = parsed(&text) {
            prop_assert!(error.to_string().starts_with("a.toml:"), "{}", error);
        }
    }
}
