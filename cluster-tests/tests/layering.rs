//! Imports of `src/` point down (ARCHITECTURE.md, "Layers"): no module names one of a higher layer or a sibling of its own layer.
//!
//! The source is read as tokens, so that comments and strings don't count, and code inside macros does. Every path counts, not only
//! `use` lines. `self` and `super` are followed to the module that they lead to. What would hide a path from this test is refused
//! itself: the crate root imported whole or under another name, modules with `#[path]`, re-exports in the crate root.

use std::fmt;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Each layer's modules, lowest first. `lib.rs` declares modules and may do nothing else; the binaries stand above all.
const LAYERS: [&[&str]; 12] = [
    &["base"],
    &["disk", "net"],
    &["page"],
    &["redo"],
    &["cache"],
    &["txn"],
    &["table"],
    &["grd", "membership", "fence"],
    &["recovery"],
    &["ops"],
    &["node", "sql"],
    &["cli"],
];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Who may import what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// `lib.rs` itself.
    Root,
    /// A module of a layer.
    Layer(usize),
    /// A binary: may import everything, through the crate's name.
    Binary,
}

/// One import that may not be.
#[derive(PartialEq, Eq, Debug)]
struct Violation {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Reads one file's tokens.
struct Reader<'a> {
    file: &'a Path,
    place: Place,
    /// The top-level module that the file belongs to.
    own: String,
    violations: Vec<Violation>,
}

/// Violations in `source`, which lies at `file` relative to `src/`.
fn violations(file: &Path, source: &str) -> Vec<Violation> {
    let module = module_path(file);
    let own = module.first().cloned().unwrap_or_default();
    let found = |line, what: String| vec![Violation { file: file.to_path_buf(), line, what }];
    let place = match own.as_str() {
        "" => Place::Root,
        "bin" => Place::Binary,
        name => match layer_of(name) {
            Some(layer) => Place::Layer(layer),
            None => return found(1, format!("module `{name}` belongs to no layer: see docs/ARCHITECTURE.md, then add it to LAYERS here")),
        },
    };
    let tokens: TokenStream = match source.parse() {
        Ok(tokens) => tokens,
        Err(error) => return found(1, format!("can't be read as Rust: {error}")),
    };
    let mut reader = Reader { file, place, own, violations: Vec::new() };
    reader.read(tokens, &module);
    reader.violations
}

/// `disk/uring.rs` is `[disk, uring]`, `disk/mod.rs` is `[disk]`, `lib.rs` is `[]`, `bin/x.rs` is `[bin]` (a crate of its own).
fn module_path(file: &Path) -> Vec<String> {
    let mut names: Vec<String> = file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if names.first().is_some_and(|name| name == "bin") {
        names.truncate(1);
    } else if names.last().is_some_and(|name| name == "mod" || name == "lib" || name == "main") {
        names.pop();
    }
    names
}

fn is_punct(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string().trim_start_matches("r#").to_string()),
        _ => None,
    }
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<&Group> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

impl Reader<'_> {
    /// Reads a sequence of tokens inside `module`.
    fn read(&mut self, stream: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Group(inner) => {
                    self.read(inner.stream(), module);
                    at += 1;
                }
                TokenTree::Ident(word) if word == "mod" && group(tokens.get(at + 2), Delimiter::Brace).is_some() => {
                    let name = ident(tokens.get(at + 1)).unwrap_or_default();
                    let body = group(tokens.get(at + 2), Delimiter::Brace).map(Group::stream).unwrap_or_default();
                    self.read(body, &[module, &[name]].concat());
                    at += 3;
                }
                // `impl Trait + use<'a>` captures lifetimes; every other `use` imports.
                TokenTree::Ident(word) if word == "use" && !is_punct(tokens.get(at + 1), '<') => {
                    at = self.import(&tokens, at + 1, module);
                }
                TokenTree::Ident(word) if word == "extern" && ident(tokens.get(at + 1)).is_some_and(|next| next == "crate") => {
                    self.report(token, "`extern crate` gives a crate another name".into());
                    at += 2;
                }
                TokenTree::Ident(_) => at = self.path(&tokens, at, module),
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    self.refuse_path_attribute(&tokens, at);
                    at += 1;
                }
                _ if is_path_separator(&tokens, at) => at = self.path(&tokens, at, module),
                _ => at += 1,
            }
        }
    }

    fn refuse_path_attribute(&mut self, tokens: &[TokenTree], at: usize) {
        let inner = group(tokens.get(at + 1), Delimiter::Bracket).map(Group::stream).unwrap_or_default();
        let inner: Vec<TokenTree> = inner.into_iter().collect();
        if ident(inner.first()).is_some_and(|name| name == "path") && is_punct(inner.get(1), '=') {
            self.report(&tokens[at], "`#[path]` hides where a module lies".into());
        }
    }

    /// A path in code: identifiers joined by `::`. Returns the position behind it.
    fn path(&mut self, tokens: &[TokenTree], start: usize, module: &[String]) -> usize {
        let mut at = start;
        let foreign = is_path_separator(tokens, at);
        if foreign {
            at += 2;
        }
        let mut names = Vec::new();
        while let Some(name) = ident(tokens.get(at)) {
            names.push(name);
            at += 1;
            if !(is_path_separator(tokens, at) && ident(tokens.get(at + 2)).is_some()) {
                break;
            }
            at += 2;
        }
        // A lone `self` or `crate` (as in `pub(crate)`) imports nothing.
        if !foreign && names.len() > 1 {
            self.judge(&tokens[start], &names, module, false);
        }
        at.max(start + 1)
    }

    /// A `use` declaration from behind its keyword. Returns the position of its semicolon.
    fn import(&mut self, tokens: &[TokenTree], start: usize, module: &[String]) -> usize {
        let end = (start..tokens.len()).find(|&at| is_punct(tokens.get(at), ';')).unwrap_or(tokens.len());
        self.import_tree(&tokens[start..end], &[], module);
        end
    }

    /// One tree of a `use` declaration below the names of `prefix`.
    fn import_tree(&mut self, tokens: &[TokenTree], prefix: &[String], module: &[String]) {
        let mut names = prefix.to_vec();
        let mut at = 0;
        if is_path_separator(tokens, at) {
            if prefix.is_empty() {
                return;
            }
            at += 2;
        }
        while let Some(token) = tokens.get(at) {
            if let Some(list) = group(Some(token), Delimiter::Brace) {
                let items: Vec<TokenTree> = list.stream().into_iter().collect();
                items.split(|item| is_punct(Some(item), ',')).filter(|item| !item.is_empty()).for_each(|item| {
                    self.import_tree(item, &names, module);
                });
                return;
            }
            match ident(Some(token)) {
                Some(word) if word == "as" => break,
                // `{self}` names what stands before the braces; at the start it is the present module.
                Some(word) if word == "self" && !names.is_empty() => {}
                Some(word) => names.push(word),
                None if is_punct(Some(token), '*') => names.push("*".into()),
                None => {}
            }
            at += 1;
        }
        if let Some(token) = tokens.first() {
            self.judge(token, &names, module, true);
        }
    }

    /// Decides whether a path may stand in `module`.
    fn judge(&mut self, token: &TokenTree, names: &[String], module: &[String], import: bool) {
        let mut names = names.iter().map(String::as_str).peekable();
        let mut base: Vec<&str> = module.iter().map(String::as_str).collect();
        match names.peek().copied() {
            Some("crate") => {
                names.next();
                base.clear();
            }
            // The binaries, and examples in documentation, see the crate from outside. Inside, its name is another way to say `crate`.
            Some("regroup") => {
                names.next();
                base.clear();
            }
            Some("self" | "super") => {
                while let Some(word) = names.next_if(|name| ["self", "super"].contains(name)) {
                    if word == "super" && base.pop().is_none() {
                        return self.report(token, "`super` leads out of the crate".into());
                    }
                }
            }
            // A name of the present module, or another crate's: neither leads up.
            _ => return,
        }
        let target: Vec<&str> = base.into_iter().chain(names).collect();
        self.judge_target(token, &target, import);
    }

    fn judge_target(&mut self, token: &TokenTree, target: &[&str], import: bool) {
        let Place::Layer(layer) = self.place else {
            if self.place == Place::Root && import {
                self.report(token, format!("the crate root re-exports or imports `{}`: a re-export hides its layer", target.join("::")));
            }
            return;
        };
        let top = match target.first() {
            Some(&top) if top != "*" => top,
            _ if import => return self.report(token, "imports the crate root: name the module".into()),
            _ => return,
        };
        if top == self.own {
            return;
        }
        let path = format!("crate::{}", target.join("::"));
        match layer_of(top) {
            None => self.report(token, format!("`{path}`: no layer has a module `{top}`")),
            Some(other) if other > layer => self.report(token, format!("L{layer} {} imports up: `{path}` is of L{other}", self.own)),
            Some(other) if other == layer => self.report(token, format!("L{layer} {} imports a sibling: `{path}`", self.own)),
            Some(_) => {}
        }
    }

    fn report(&mut self, token: &TokenTree, what: String) {
        self.violations.push(Violation { file: self.file.to_path_buf(), line: token.span().start().line, what });
    }
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("can't list {}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn imports_point_down() {
    // As the test runner says now: the build may be shared with another checkout.
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    let source = Path::new(&package).join("../src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    files.sort();
    assert!(files.iter().any(|file| file.ends_with("base/mod.rs")), "the source is not where it was: {}", source.display());
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("can't read {}: {error}", file.display()));
        let relative = file.strip_prefix(&source).expect("found below the source");
        all.extend(violations(relative, &text).iter().map(Violation::to_string));
    }
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

/// The messages for a fabricated file.
fn found(file: &str, source: &str) -> Vec<String> {
    violations(Path::new(file), source).iter().map(|violation| format!("{}: {}", violation.line, violation.what)).collect()
}

#[test]
fn downward_and_inward_imports_pass() {
    let source = "
        //! Mentions crate::cache::Frame.
        use std::sync::{self, Arc};
        use crate::base::{Lsn, ids::{self, Scn}};
        use super::block::Block;
        use self::inner::Thing;
        pub(crate) use crate::disk::Disk;
        pub(in crate::redo) struct Position;
        const TEXT: &str = \"crate::cli::run\";
        fn here<'a>(x: &'a u8) -> impl Sized + use<'a> { crate::page::header(x) }
        mod tests { use super::*; use super::super::block; fn f() { super::super::super::base::id() } }
    ";
    assert_eq!(found("redo/writer.rs", source), Vec::<String>::new());
    assert_eq!(found("bin/regroupd.rs", "fn main() { regroup::cli::main() }"), Vec::<String>::new());
    assert_eq!(found("lib.rs", "pub mod base; pub mod disk;"), Vec::<String>::new());
}

#[test]
fn upward_imports_are_found() {
    assert_eq!(found("redo/writer.rs", "\nuse crate::cache::Frame;"), ["2: L3 redo imports up: `crate::cache::Frame` is of L4"]);
    assert_eq!(found("page/mod.rs", "use crate::{base::Lsn, redo::{Record}};"), ["1: L2 page imports up: `crate::redo::Record` is of L3"]);
    assert_eq!(found("page/mod.rs", "fn f() -> crate::redo::Record { x }"), ["1: L2 page imports up: `crate::redo::Record` is of L3"]);
    assert_eq!(found("base/mod.rs", "fn f() { assert!(crate::disk::ready()) }"), ["1: L0 base imports up: `crate::disk::ready` is of L1"]);
    assert_eq!(found("base/mod.rs", "fn f() { regroup::disk::ready() }"), ["1: L0 base imports up: `crate::disk::ready` is of L1"]);
    assert_eq!(found("base/mod.rs", "macro_rules! m { () => { $crate::disk::ready() } }").len(), 1);
}

#[test]
fn sibling_imports_are_found() {
    assert_eq!(found("disk/mod.rs", "use crate::net::Link;"), ["1: L1 disk imports a sibling: `crate::net::Link`"]);
    assert_eq!(found("grd/master.rs", "use crate::fence::Method;"), ["1: L7 grd imports a sibling: `crate::fence::Method`"]);
}

#[test]
fn relative_escapes_are_followed() {
    assert_eq!(found("redo/writer.rs", "use super::super::cache::Frame;"), ["1: L3 redo imports up: `crate::cache::Frame` is of L4"]);
    assert_eq!(found("redo/mod.rs", "use self::super::cache::Frame;"), ["1: L3 redo imports up: `crate::cache::Frame` is of L4"]);
    let nested = "mod a { mod b { fn f() { super::super::super::super::cli::run() } } }";
    assert_eq!(found("redo/writer.rs", nested), ["1: L3 redo imports up: `crate::cli::run` is of L11"]);
    assert_eq!(found("redo/mod.rs", "use super::super::x::Y;"), ["1: `super` leads out of the crate"]);
}

#[test]
fn ways_to_hide_a_path_are_refused() {
    let root = ["1: imports the crate root: name the module"];
    assert_eq!(found("redo/mod.rs", "use crate as top;"), root);
    assert_eq!(found("redo/mod.rs", "use crate::{self as top};"), root);
    assert_eq!(found("redo/mod.rs", "use super::*;"), root);
    assert_eq!(found("redo/writer.rs", "use super::super as top;"), root);
    assert_eq!(found("redo/mod.rs", "use regroup as top;"), root);
    assert_eq!(found("redo/mod.rs", "#[path = \"../cache/mod.rs\"] mod own;"), ["1: `#[path]` hides where a module lies"]);
    assert_eq!(found("redo/mod.rs", "extern crate self as top;"), ["1: `extern crate` gives a crate another name"]);
    assert_eq!(found("lib.rs", "pub use crate::cache::Frame;").len(), 1);
    assert_eq!(found("extra/mod.rs", "").len(), 1);
    assert_eq!(found("redo/mod.rs", "use crate::extra::Thing;"), ["1: `crate::extra::Thing`: no layer has a module `extra`"]);
}
