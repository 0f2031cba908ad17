//! The rules of docs/architecture.md that a compiler does not check, checked on the sources' text.
//!
//! Each rule is a function from a file to what is wrong with it. A check that can't fail is a defect, so each has a
//! test on a sample that breaks it. Text is judged after comments, strings and `#[cfg(test)]` items are blanked out.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Longest file, in lines, tests apart.
const MAX_FILE_LINES: usize = 500;
/// Longest function body, in lines that hold code.
const MAX_FUNCTION_LINES: usize = 70;

/// Which packages each package may name in its Cargo.toml, of those that the rules are about.
const PACKAGES: &[(&str, &[&str])] = &[
    ("storage", &["sled"]),
    ("raft", &["openraft", "ruvector-cluster-storage", "axum"]),
    ("client", &[]),
    ("examples/data-node", &["ruvector-cluster-client", "axum"]),
    ("examples/vector-node", &["ruvector-cluster-check", "ruvector-cluster-client", "axum", "ruvector-core"]),
    ("mutants", &[]),
    ("local", &[]),
    ("bench", &["axum"]),
    ("check", &["ruvector-cluster-client"]),
    (
        "simulation",
        &[
            "ruvector-cluster",
            "ruvector-cluster-check",
            "ruvector-cluster-client",
            "ruvector-cluster-raft",
            "ruvector-cluster-storage",
            "axum",
        ],
    ),
    ("model", &["ruvector-cluster", "ruvector-cluster-client"]),
    ("chaos", &["ruvector-cluster-check", "ruvector-cluster-client"]),
    (".", &["ruvector-cluster-client", "ruvector-cluster-raft", "ruvector-cluster-storage", "axum"]),
];

/// The packages that [`PACKAGES`] speaks of; all others are free to use.
const GUARDED: &[&str] = &[
    "sled",
    "openraft",
    "axum",
    "ruvector-core",
    "ruvector-cluster",
    "ruvector-cluster-check",
    "ruvector-cluster-client",
    "ruvector-cluster-raft",
    "ruvector-cluster-storage",
];

/// The arrows between the modules of src: each may name those listed, and itself. No circle: see the test below.
const ARROWS: &[(&str, &[&str])] = &[
    ("metadata", &[]),
    ("liveness", &["metadata"]),
    ("load", &[]),
    ("soft", &["metadata", "liveness", "load"]),
    ("placement", &["metadata", "soft", "load"]),
    ("migration", &["metadata", "soft"]),
    ("coordinator", &["metadata", "liveness", "load", "soft", "placement", "migration"]),
    ("machine", &["metadata"]),
    ("backup", &["metadata"]),
    ("restore", &["metadata", "backup", "config"]),
    ("metrics", &[]),
    ("proposer", &["metadata", "machine"]),
    ("config", &["metadata"]),
    ("cli", &["config"]),
    (
        "api",
        &[
            "metadata",
            "soft",
            "placement",
            "migration",
            "coordinator",
            "machine",
            "backup",
            "metrics",
            "proposer",
        ],
    ),
    ("cluster", &["metadata", "config", "server"]),
    ("gossip", &["config", "coordinator"]),
    ("server", &["metadata", "config", "coordinator", "gossip", "machine", "metrics", "proposer", "api"]),
];

/// The modules of src that hold no I/O of any kind, and the exceptions within.
const PURE: &[&str] = &["metadata", "liveness", "load", "soft", "placement", "migration", "coordinator"];
/// Shells inside the pure modules: the coordinator's driver.
const SHELLS: &[&str] = &["src/coordinator/driver.rs", "src/coordinator/driver/"];

/// What a pure module never names, by what it would bring in. `x::` is a path that begins so, anything else a word.
const IMPURE: &[(&str, &[&str])] = &[
    ("waiting", &["async", "await", "tokio", "futures", "std::thread", "spawn"]),
    ("time", &["SystemTime", "Instant", "Utc::now", "Local::now", "clock"]),
    ("chance", &["rand", "getrandom", "RandomState", "thread_rng"]),
    ("the network", &["axum", "http::", "reqwest", "hyper", "tower", "std::net"]),
    ("the machine", &["std::fs", "std::io", "std::process", "std::env"]),
    ("logging", &["tracing", "log::", "println", "eprintln", "print", "eprint", "dbg"]),
    ("an order that differs between processes", &["HashMap", "HashSet"]),
];

/// The shell that data nodes and the simulation share names these only in the file of their seam, if it has one.
const SEAMS: &[(&str, &str)] = &[
    ("tokio::spawn", "client/src/copies/outside.rs"),
    ("task::spawn", ""),
    ("JoinSet", ""),
    ("std::thread", ""),
    ("std::fs", ""),
    ("spawn_blocking", "client/src/copies/blocking.rs"),
    ("Instant", ""),
    ("SystemTime", ""),
    ("rand", ""),
    ("getrandom", ""),
    ("HashMap", ""),
    ("HashSet", ""),
];

/// Decisions and replicated state use integers. (Jump hash, in client/, is defined over doubles.)
const FLOATS: &[&str] = &["f32", "f64"];

/// The data node that authors of others begin with, and its longest length, in lines (docs/data-nodes.md).
const SHORT_EXAMPLE: (&str, usize) = ("examples/data-node/src/main.rs", 100);

/// What data nodes must not get with the client library.
const NOT_FOR_DATA_NODES: &[&str] = &["openraft", "sled", "axum"];

/// A file of the repository: its path from the root with `/`, and its text.
#[derive(Clone)]
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_test(&self) -> bool {
        let in_folder = self.path.starts_with("tests/") || self.path.contains("/tests/");
        in_folder || self.path.ends_with("/tests.rs") || format!("/{}", self.path).contains("/benches/")
    }
}

// ---- the rules ----

/// Only storage names sled, only raft openraft, only the client's gossip chitchat, client none of the others nor axum.
fn check_crate_words(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    let allowed = |word: &str| match word {
        "sled" => source.path.starts_with("storage/"),
        "openraft" => source.path.starts_with("raft/"),
        "chitchat" => source.path.starts_with("client/src/gossip"),
        _ => !source.path.starts_with("client/") && !source.path.starts_with("storage/"),
    };
    let mut wrong = Vec::new();
    for word in ["sled", "openraft", "chitchat", "axum"] {
        for line in lines_with(&code, word) {
            if !allowed(word) {
                wrong.push(format!("{}:{line} names {word}", source.path));
            }
        }
    }
    wrong
}

/// The same for Cargo.toml, and no arrow between the packages but those of [`PACKAGES`].
fn check_manifest(source: &Source) -> Vec<String> {
    let folder = source.path.strip_suffix("/Cargo.toml").unwrap_or(".");
    let Some((_, allowed)) = PACKAGES.iter().find(|(name, _)| *name == folder) else {
        return vec![format!("{}: the package stands in no table of tests/tidy.rs", source.path)];
    };
    let mut wrong = Vec::new();
    let mut in_dependencies = false;
    for (line, text) in (1..).zip(source.text.lines()) {
        if let Some(section) = text.trim().strip_prefix('[') {
            in_dependencies = section.ends_with("dependencies]") && !section.starts_with("workspace");
            continue;
        }
        let name = text.split(['.', '=', ' ']).next().unwrap_or_default();
        if in_dependencies && GUARDED.contains(&name) && !allowed.contains(&name) {
            wrong.push(format!("{}:{line} depends on {name}", source.path));
        }
    }
    wrong
}

/// The pure modules name nothing of [`IMPURE`], and of the workspace only the client's ids, wire types and hashing.
fn check_pure(source: &Source) -> Vec<String> {
    if source.is_test() || !is_pure(&source.path) {
        return Vec::new();
    }
    let code = without_tests(&code_of(&source.text));
    let mut wrong = Vec::new();
    for (what, names) in IMPURE {
        for name in *names {
            let lines = lines_with(&code, name).into_iter();
            wrong.extend(
                lines.map(|line| format!("{}:{line} is pure, and names {name}: {what}", source.path)),
            );
        }
    }
    for name in FLOATS.iter().filter(|_| source.path.starts_with("src/")) {
        let lines = lines_with(&code, name).into_iter();
        wrong.extend(lines.map(|line| format!("{}:{line} decides with {name}", source.path)));
    }
    for package in ["ruvector_cluster", "ruvector_cluster_raft", "ruvector_cluster_storage"] {
        for line in lines_with(&code, package) {
            wrong.push(format!("{}:{line} is pure, and names {package}", source.path));
        }
    }
    let (root, allowed): (_, &[&str]) = if source.path.starts_with("client/") {
        ("crate", &["ids", "wire", "hashing", "replica"])
    } else {
        ("ruvector_cluster_client", &["ids", "wire", "hashing"])
    };
    for (module, line) in paths_from(&code, root, module_depth(&source.path)) {
        if !allowed.contains(&module.as_str()) {
            wrong.push(format!("{}:{line} is pure, and names {root}::{module}", source.path));
        }
    }
    wrong
}

fn is_pure(path: &str) -> bool {
    if SHELLS.iter().any(|shell| path.starts_with(shell)) {
        return false;
    }
    let module = top_module(path);
    let in_src = path.starts_with("src/") && PURE.contains(&module.as_str());
    in_src || ["client/src/replica", "client/src/hashing"].iter().any(|pure| path.starts_with(pure))
}

/// A simulation can replace whatever the shell around the replicas reaches.
fn check_seams(source: &Source) -> Vec<String> {
    if source.is_test() || !source.path.starts_with("client/src/copies") {
        return Vec::new();
    }
    let code = without_tests(&code_of(&source.text));
    let mut wrong = Vec::new();
    for (word, _) in SEAMS.iter().filter(|(_, seam)| *seam != source.path) {
        let lines = lines_with(&code, word).into_iter();
        wrong.extend(lines.map(|line| format!("{}:{line} names {word} past the seam", source.path)));
    }
    wrong
}

/// Modules of src name each other only along [`ARROWS`].
fn check_arrows(source: &Source) -> Vec<String> {
    let module = top_module(&source.path);
    if !source.path.starts_with("src/") || ["lib", "main"].contains(&module.as_str()) {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: module {module} stands in no table of tests/tidy.rs", source.path)];
    };
    let code = without_tests(&code_of(&source.text));
    let mut wrong = Vec::new();
    for (other, line) in paths_from(&code, "crate", module_depth(&source.path)) {
        let is_module = other.starts_with(|c: char| c.is_ascii_lowercase());
        if is_module && other != module && !allowed.contains(&other.as_str()) {
            wrong.push(format!("{}:{line}: an arrow {module} -> {other} is not drawn", source.path));
        }
    }
    wrong
}

/// No file over [`MAX_FILE_LINES`], tests apart.
fn check_file_length(source: &Source) -> Vec<String> {
    if source.is_test() {
        return Vec::new();
    }
    let code = code_of(&source.text);
    let tests = code.len() - without_tests(&code).trim_end().len();
    let lines = source.text.lines().count();
    let in_tests = code[code.len() - tests..].lines().count().saturating_sub(1);
    let lines = lines.saturating_sub(in_tests);
    if lines > MAX_FILE_LINES {
        return vec![format!("{}: {lines} lines, and {MAX_FILE_LINES} are the limit", source.path)];
    }
    Vec::new()
}

/// No function over [`MAX_FUNCTION_LINES`], tests apart.
fn check_function_length(source: &Source) -> Vec<String> {
    if source.is_test() {
        return Vec::new();
    }
    let code = without_tests(&code_of(&source.text));
    let mut wrong = Vec::new();
    for at in words(&code).filter(|(_, word)| *word == "fn").map(|(at, _)| at) {
        let Some(end) = item_end(&code, at) else { continue };
        let body = &code[at..end];
        let Some(open) = body.find('{') else { continue };
        let lines = body[open..].lines().filter(|line| !line.trim().is_empty()).count().saturating_sub(2);
        if lines > MAX_FUNCTION_LINES {
            let line = line_of(&code, at);
            wrong.push(format!("{}:{line}: a function of {lines} lines", source.path));
        }
    }
    wrong
}

/// Nothing unfinished, no test that is not run, no folder-style modules, no module named for what it isn't.
fn check_habits(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    let mut wrong = Vec::new();
    for unfinished in ["todo!", "unimplemented!", "#[ignore"] {
        for (at, _) in code.match_indices(unfinished) {
            wrong.push(format!("{}:{} has {unfinished}", source.path, line_of(&code, at)));
        }
    }
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if ["mod.rs", "utils.rs", "common.rs", "helpers.rs", "manager.rs", "util.rs"].contains(&name) {
        wrong.push(format!("{}: a module is named for what it does", source.path));
    }
    for word in ["SystemTime::now", "Instant::now"] {
        let is_clock = source.path == "client/src/clock.rs" || source.is_test();
        let std_time = lines_with(&code, word).into_iter().filter(|_| !is_clock && !uses_tokio_time(&code));
        wrong.extend(std_time.map(|line| format!("{}:{line} reads the time past the clock", source.path)));
    }
    wrong
}

/// `tokio::time::Instant` follows a paused runtime, so shells may use it.
fn uses_tokio_time(code: &str) -> bool {
    code.contains("tokio::time") && !code.contains("std::time::Instant") && !code.contains("SystemTime")
}

const RULES: &[fn(&Source) -> Vec<String>] = &[
    check_crate_words,
    check_pure,
    check_seams,
    check_arrows,
    check_file_length,
    check_function_length,
    check_habits,
];

// ---- reading Rust as text ----

/// The text with comments, strings and characters blanked out; every line stays where it is.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => at + find(&bytes[at..], b"\n"),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if is_raw_string(bytes, at) => raw_string_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

/// Index of `needle` in `bytes`, or their length.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).unwrap_or(bytes.len())
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn is_raw_string(bytes: &[u8], at: usize) -> bool {
    let in_word = at > 0 && is_word(bytes[at - 1]) && bytes[at - 1] != b'b';
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    !in_word && bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn raw_string_end(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = start + 2 + hashes;
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    (open + find(&bytes[open..], &close) + close.len()).min(bytes.len())
}

/// End of a character literal, or `start` when it is a lifetime.
fn char_end(bytes: &[u8], start: usize) -> usize {
    if bytes.get(start + 1) == Some(&b'\\') {
        let from = start + 3;
        return (from + find(bytes.get(from..).unwrap_or_default(), b"'") + 1).min(bytes.len());
    }
    let width = bytes[start + 1..].iter().take(5).position(|byte| *byte == b'\'');
    match width {
        Some(1) => start + 3,
        // A character of several bytes.
        Some(width) if width > 1 && !bytes[start + 1].is_ascii() => start + width + 2,
        _ => start,
    }
}

/// The code with `#[cfg(test)]` items blanked out.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(at) = out.find("#[cfg(test)]") {
        let end = item_end(&out, at).unwrap_or(out.len());
        let blank: String = out[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(at..end, &blank);
    }
    out
}

/// Where the item that begins at `start` ends: behind its `;`, or behind the brace that closes its body.
fn item_end(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut nested = 0_usize;
    for (offset, byte) in code[start..].bytes().enumerate() {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested = nested.saturating_sub(1),
            b'{' => depth += 1,
            b'}' if depth <= 1 => return Some(start + offset + 1),
            b'}' => depth -= 1,
            b';' if depth == 0 && nested == 0 => return Some(start + offset + 1),
            _ => {}
        }
    }
    None
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Every word with its place.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let bytes = code.as_bytes();
    let starts = (0..bytes.len()).filter(|at| is_word(bytes[*at]) && (*at == 0 || !is_word(bytes[at - 1])));
    starts.map(|at| {
        let end = bytes[at..].iter().position(|byte| !is_word(*byte)).map_or(bytes.len(), |n| at + n);
        (at, &code[at..end])
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Lines where `pattern` stands as whole words; one that ends in `::` must begin a path.
fn lines_with(code: &str, pattern: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let whole = |at: usize| {
        let before = at == 0 || !is_word(bytes[at - 1]);
        let behind = bytes.get(at + pattern.len()).is_none_or(|byte| !is_word(*byte));
        before && (behind || pattern.ends_with("::"))
    };
    code.match_indices(pattern).filter(|(at, _)| whole(*at)).map(|(at, _)| line_of(code, at)).collect()
}

/// The first names behind `root::`, with their lines: of plain paths, of `use root::{a, b::c}`, and for `crate` of the
/// chains of `super` that lead to the crate's root from a module `depth` levels below it.
fn paths_from(code: &str, root: &str, depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let up = "super::".repeat(depth);
    let mut roots = vec![format!("{root}::")];
    if root == "crate" && depth > 0 {
        roots.push(up);
    }
    for prefix in &roots {
        for (at, _) in code.match_indices(prefix.as_str()) {
            let before = code[..at].trim_end();
            let longer = before.ends_with("super::") || (at > 0 && is_word(code.as_bytes()[at - 1]));
            if !longer && !code[at + prefix.len()..].starts_with("super") {
                let line = line_of(code, at);
                found.extend(heads(&code[at + prefix.len()..]).into_iter().map(|head| (head, line)));
            }
        }
    }
    found
}

/// The first names of the path or group that `rest` begins with.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return words(rest).next().map(|(_, word)| word.to_owned()).into_iter().collect();
    };
    let (mut depth, mut item, mut items) = (0_usize, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {}
        }
        item.push(c);
    }
    items.push(item);
    items.iter().filter_map(|item| words(item).next().map(|(_, word)| word.to_owned())).collect()
}

/// `metadata` of src/metadata.rs and of src/metadata/apply.rs.
fn top_module(path: &str) -> String {
    let inside = path.split_once("src/").map_or(path, |(_, inside)| inside);
    inside.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
}

/// How many levels below its crate's root a file's module is.
fn module_depth(path: &str) -> usize {
    let inside = path.split_once("src/").map_or(path, |(_, inside)| inside);
    if ["lib.rs", "main.rs"].contains(&inside) { 0 } else { inside.split('/').count() }
}

/// Every file of the repository whose name ends in `ending`, but for what is built or not ours.
fn files(ending: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.map(Result::unwrap) {
            let name = entry.file_name().into_string().expect("names are UTF-8");
            let path = entry.path();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(ending) && path.is_file() {
                let text = fs::read_to_string(&path).unwrap();
                let relative = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.push(Source::new(relative, &text));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

// ---- the repository keeps the rules ----

#[test]
fn every_source_keeps_every_rule() {
    let sources = files(".rs");
    assert!(sources.len() > 20, "the search for sources found only {}", sources.len());
    let wrong: Vec<String> =
        sources.iter().flat_map(|source| RULES.iter().flat_map(|rule| rule(source))).collect();
    assert!(wrong.is_empty(), "{} breaches:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_manifest_keeps_the_arrows_between_packages() {
    let manifests = files("Cargo.toml");
    assert_eq!(manifests.len(), PACKAGES.len());
    let wrong: Vec<String> = manifests.iter().flat_map(check_manifest).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_client_library_brings_data_nodes_nothing_of_the_control_nodes() {
    let tree = |package: &str| {
        let args = ["tree", "--locked", "-e", "normal,build", "--prefix", "none", "-p", package];
        let output = std::process::Command::new(env!("CARGO"))
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let whole = tree("ruvector-cluster");
    for name in NOT_FOR_DATA_NODES {
        assert!(whole.contains(*name), "the control node has {name}, so that this can fail");
    }
    let client = tree("ruvector-cluster-client");
    assert!(client.contains("reqwest"), "{client:?}");
    let brought: Vec<_> = NOT_FOR_DATA_NODES.iter().filter(|name| client.contains(**name)).collect();
    assert!(brought.is_empty(), "{brought:?}");
}

#[test]
fn the_short_example_is_short() {
    let (path, most) = SHORT_EXAMPLE;
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    assert!(text.lines().count() <= most, "{path} has {} lines", text.lines().count());
}

#[test]
fn the_table_of_arrows_has_no_circle() {
    let mut open: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, to)| (*name, to.iter().copied().collect())).collect();
    while let Some(leaf) = open.iter().find(|(_, to)| to.is_empty()).map(|(name, _)| *name) {
        open.remove(leaf);
        open.values_mut().for_each(|to| {
            to.remove(leaf);
        });
    }
    assert!(open.is_empty(), "a circle, or a name without a row: {open:?}");
}

// ---- every rule fails on a sample that breaks it ----

#[track_caller]
fn assert_refused(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) {
    assert!(!rule(&Source::new(path, text)).is_empty(), "accepted in {path}:\n{text}");
}

#[track_caller]
fn assert_accepted(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) {
    assert_eq!(rule(&Source::new(path, text)), Vec::<String>::new(), "refused in {path}:\n{text}");
}

#[test]
fn a_crate_named_outside_its_layer_is_refused() {
    assert_refused(check_crate_words, "src/api.rs", "use sled::Tree;");
    assert_refused(check_crate_words, "raft/src/node.rs", "let db = sled::open(path);");
    assert_refused(check_crate_words, "storage/src/wal.rs", "use openraft::LogId;");
    assert_refused(check_crate_words, "client/src/agent.rs", "use axum::Router;");
    assert_refused(check_crate_words, "src/gossip.rs", "use chitchat::ChitchatId;");
    assert_accepted(check_crate_words, "client/src/gossip/running.rs", "use chitchat::ChitchatId;");
    assert_accepted(check_crate_words, "storage/src/rows.rs", "use sled::Tree;");
    assert_accepted(check_crate_words, "raft/src/node.rs", "use openraft::Raft;");
    assert_accepted(
        check_crate_words,
        "src/api.rs",
        "// not sled::Tree\nlet s = \"openraft\";\nstruct SledRows;",
    );
}

#[test]
fn a_dependency_on_a_crate_of_another_layer_is_refused() {
    assert_refused(check_manifest, "client/Cargo.toml", "[dependencies]\naxum.workspace = true\n");
    assert_refused(check_manifest, "raft/Cargo.toml", "[dev-dependencies]\nsled = \"0.34\"\n");
    assert_refused(
        check_manifest,
        "storage/Cargo.toml",
        "[dependencies]\nruvector-cluster-raft = { path = \"../raft\" }\n",
    );
    assert_refused(check_manifest, "more/Cargo.toml", "[package]\n");
    assert_accepted(check_manifest, "Cargo.toml", "[workspace.dependencies]\nsled = \"0.34\"\n");
    assert_accepted(check_manifest, "storage/Cargo.toml", "[dependencies]\nsled.workspace = true\n");
}

#[test]
fn impure_words_in_pure_modules_are_refused() {
    for bad in [
        "async fn f() {}",
        "use tokio::sync::watch;",
        "let t = std::time::Instant::now();",
        "let t = chrono::Utc::now();",
        "let r = rand::random::<u64>();",
        "use http::StatusCode;",
        "tracing::info!(1);",
        "println!();",
        "use std::collections::HashMap;",
        "use std::fs;",
        "let share = 0.5_f64; let x: f64 = share;",
        "use ruvector_cluster_raft::Node;",
        "use ruvector_cluster_client::clock::Clock;",
        "use ruvector_cluster_client::{ids::NodeId, agent::Agent};",
    ] {
        assert_refused(check_pure, "src/metadata/apply.rs", bad);
        assert_refused(check_pure, "src/coordinator/decide.rs", bad);
    }
    assert_refused(check_pure, "client/src/replica/write.rs", "use crate::agent::Agent;");
    assert_refused(check_pure, "client/src/replica.rs", "use super::clock::Clock;");
    assert_accepted(
        check_pure,
        "client/src/replica/write.rs",
        "use crate::{ids::NodeId, wire};\nuse super::super::ids;",
    );
    assert_accepted(check_pure, "src/coordinator/driver.rs", "async fn run() { tokio::spawn(f()); }");
    assert_accepted(check_pure, "src/metadata/tests/golden.rs", "use std::fs;");
    assert_accepted(
        check_pure,
        "src/metadata/apply.rs",
        "// no HashMap\nuse ruvector_cluster_client::wire::Node;",
    );
    assert_accepted(
        check_pure,
        "src/metadata/apply.rs",
        "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }\n",
    );
}

#[test]
fn what_the_shell_reaches_past_a_seam_is_refused() {
    assert_refused(check_seams, "client/src/copies/task.rs", "tokio::spawn(sending);");
    assert_refused(check_seams, "client/src/copies/outside.rs", "tokio::task::spawn_blocking(call);");
    assert_refused(check_seams, "client/src/copies.rs", "use std::collections::HashMap;");
    assert_refused(check_seams, "client/src/copies/host.rs", "let now = tokio::time::Instant::now();");
    assert_accepted(check_seams, "client/src/copies/outside.rs", "tokio::spawn(future);");
    assert_accepted(check_seams, "client/src/copies/tests/world.rs", "use tokio::time::Instant;");
    assert_accepted(check_seams, "client/src/router.rs", "tokio::spawn(follow());");
}

#[test]
fn arrows_that_are_not_drawn_are_refused() {
    assert_refused(check_arrows, "src/metadata/apply.rs", "use crate::placement::plan;");
    assert_refused(check_arrows, "src/placement.rs", "use super::coordinator::Soft;");
    assert_refused(check_arrows, "src/placement/quota.rs", "use super::super::api;");
    assert_refused(
        check_arrows,
        "src/liveness.rs",
        "use crate::{\n    metadata::Metadata,\n    api::{error, route},\n};",
    );
    assert_refused(check_arrows, "src/surprise.rs", "fn f() {}");
    assert_accepted(
        check_arrows,
        "src/placement/quota.rs",
        "use super::model;\nuse crate::metadata::{api, Metadata};",
    );
    assert_accepted(check_arrows, "src/placement.rs", "pub(crate) fn f() {}\nuse crate::metadata;");
}

#[test]
fn long_files_and_functions_are_refused() {
    let long = "fn f() {}\n".repeat(MAX_FILE_LINES + 1);
    assert_refused(check_file_length, "src/api.rs", &long);
    assert_accepted(check_file_length, "src/api/tests.rs", &long);
    assert_accepted(check_file_length, "tests/api.rs", &long);
    let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_accepted(check_file_length, "src/api.rs", &tested);
    assert_refused(check_file_length, "src/api.rs", &format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n"));

    let body = |lines: usize| format!("fn f(x: [u8; 2]) -> u8 {{\n{}}}\n", "    g();\n".repeat(lines));
    assert_refused(check_function_length, "src/api.rs", &body(MAX_FUNCTION_LINES + 1));
    assert_accepted(check_function_length, "src/api.rs", &body(MAX_FUNCTION_LINES));
    let commented = body(MAX_FUNCTION_LINES).replacen("g();", "// why\n    g();", 5);
    assert_accepted(check_function_length, "src/api.rs", &commented);
}

#[test]
fn unfinished_work_and_skipped_tests_are_refused() {
    assert_refused(check_habits, "src/api.rs", "fn f() { todo!() }");
    assert_refused(check_habits, "src/api.rs", "fn f() { unimplemented!() }");
    assert_refused(check_habits, "tests/api.rs", "#[test]\n#[ignore]\nfn f() {}");
    assert_refused(check_habits, "tests/api.rs", "#[ignore = \"slow\"]\nfn f() {}");
    assert_refused(check_habits, "src/api/mod.rs", "");
    assert_refused(check_habits, "src/utils.rs", "");
    assert_refused(check_habits, "src/api.rs", "let t = std::time::Instant::now();");
    assert_refused(check_habits, "src/api.rs", "use std::time::SystemTime;\nlet t = SystemTime::now();");
    assert_accepted(check_habits, "client/src/clock.rs", "let t = SystemTime::now();");
    assert_accepted(check_habits, "src/api.rs", "use tokio::time::Instant;\nlet t = Instant::now();");
    assert_accepted(check_habits, "src/api.rs", "//! todo! nothing\nlet t = \"#[ignore]\";");
}

#[test]
fn comments_strings_and_characters_are_no_code() {
    let code = code_of(
        "a /* b /* c */ d */ 'e' \"f \\\" g\" r#\"h \" i\"# b\"j\" '\\n' '\\'' 'ä' fn k<'l>(m: &'l u8) // n\no",
    );
    let left: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(left, ["a", "b", "fn", "k", "l", "m", "l", "u8", "o"]);
    assert_eq!(code.lines().count(), 2);
}
