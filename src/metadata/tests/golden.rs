//! Golden scripts of apply: `tests/golden/metadata/*.script`, one behaviour each, named for it.
//!
//! A script has blocks of commands, one a line; below each block, after `---`, stands what they did: the outcome, and each
//! row that changed; of a block that begins with `quiet`, nothing. `UPDATE_GOLDEN=1` writes what is below the lines anew: read the diff. Lines with `#` are comments. The
//! commands are explained in `script.rs`.

use std::fmt::Write;
use std::path::Path;

use super::script::Runner;

/// The script with what its commands did.
fn run(script: &str) -> String {
    let mut runner = Runner::default();
    let mut text = String::new();
    let mut block = String::new();
    let (mut in_output, mut quiet) = (false, false);
    for line in script.lines().chain([""]) {
        if in_output {
            in_output = !line.is_empty();
        } else if line == "---" {
            let output = std::mem::take(&mut block);
            let output = if std::mem::take(&mut quiet) { "(quiet)" } else { output.trim_end() };
            writeln!(text, "---\n{output}").unwrap();
            text.push('\n');
            in_output = true;
        } else {
            if !line.is_empty() {
                writeln!(text, "{line}").unwrap();
            }
            if line == "quiet" {
                quiet = true;
            } else if !line.is_empty() && !line.starts_with('#') {
                block.push_str(&runner.line(line));
            }
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[test]
fn scripts_do_what_stands_below_their_commands() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metadata");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "script"));
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differing = Vec::new();
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let result = run(&script);
        if update {
            std::fs::write(&path, result).unwrap();
        } else if result != script {
            let lines = result.lines().zip(script.lines()).enumerate();
            let first = lines.clone().find(|(_, (now, golden))| now != golden);
            differing.push(format!("{}: {first:?}", path.display()));
        }
    }
    assert!(differing.is_empty(), "not as written (UPDATE_GOLDEN=1 rewrites): {differing:#?}");
}
