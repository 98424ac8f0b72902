//! Imports point one way. The table of modules in `lib.rs` is compared with the `use` lines, and inside a module no two files import
//! each other in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// Every Rust file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The code of a file, without comments and its own tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else { return vec![tree.trim().to_owned()] };
    let (prefix, rest) = (tree[..open].trim(), &tree[open + 1..tree.rfind('}').unwrap()]);
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in rest.chars().chain([',']) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| expand(&format!("{prefix}{}", part.trim()))).collect()
}

/// The `use` statements of a file, and whether each is `pub`.
fn uses(code: &str) -> Vec<(bool, String)> {
    let is_public = |line: &str| line.trim_start().starts_with("pub") && line.contains(" use ");
    let mut statements = Vec::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("use ") || is_public(line) {
            let mut statement = line[line.find("use ").unwrap() + 4..].to_owned();
            while !statement.contains(';') {
                statement.push_str(lines.next().unwrap());
            }
            statements.push((is_public(line), statement.split(';').next().unwrap().to_owned()));
        }
    }
    statements
}

/// Names that a `mod.rs` passes on from its files, and where they are.
fn passed_on(modules: &BTreeMap<Vec<String>, String>) -> BTreeMap<Vec<String>, Vec<String>> {
    let mut places = BTreeMap::new();
    for (module, code) in modules {
        for path in uses(code).iter().filter(|(public, _)| *public).flat_map(|(_, statement)| expand(statement)) {
            let mut segments: Vec<String> = path.split("::").map(|segment| segment.trim().to_owned()).collect();
            if segments[0] == "self" {
                segments.remove(0);
            }
            let below = |segments: &[String]| [module, segments].concat();
            if !modules.contains_key(&below(&segments[..1])) {
                continue;
            }
            let last = segments.pop().unwrap();
            let (there, here) = last.split_once(" as ").unwrap_or((&last, &last));
            segments.push(there.to_owned());
            places.insert(below(&[here.to_owned()]), below(&segments));
        }
    }
    places
}

/// The path to where a name is, however many files pass it on.
fn resolved(mut path: Vec<String>, passed_on: &BTreeMap<Vec<String>, Vec<String>>) -> Vec<String> {
    while let Some((length, place)) = (1..=path.len()).rev().find_map(|length| Some((length, passed_on.get(&path[..length])?))) {
        // `pub use next::next` names a file and what it holds alike.
        if path.starts_with(place) {
            break;
        }
        path.splice(..length, place.iter().cloned());
    }
    path
}

/// Paths into the crate that a file names, as segments: from its `use` lines, and written out.
fn crate_paths(code: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let mut paths = BTreeSet::new();
    let written =
        code.match_indices("crate::").map(|(at, _)| code[at..].split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next());
    for path in uses(code).iter().flat_map(|(_, statement)| expand(statement)).chain(written.flatten().map(str::to_owned)) {
        let mut segments: Vec<String> = path.split("::").map(|segment| segment.trim().to_owned()).collect();
        let mut base = module.to_vec();
        match segments.first().map(String::as_str) {
            Some("crate") => base.clear(),
            Some("self") => {}
            Some("super") => {
                base.pop();
                while segments.get(1).is_some_and(|segment| segment == "super") {
                    segments.remove(0);
                    base.pop();
                }
            }
            _ => continue,
        }
        base.extend(segments.into_iter().skip(1));
        paths.insert(base);
    }
    paths
}

/// The module that a file is: `database/swap/mod.rs` is `database::swap`.
fn module_of(path: &Path) -> Vec<String> {
    let relative = path.strip_prefix(SOURCE).unwrap().with_extension("");
    let mut segments: Vec<String> = relative.iter().map(|segment| segment.to_string_lossy().into_owned()).collect();
    if segments.last().is_some_and(|last| last == "mod") {
        segments.pop();
    }
    segments
}

fn modules() -> BTreeMap<Vec<String>, String> {
    files(Path::new(SOURCE))
        .iter()
        .map(|path| (module_of(path), code(path)))
        .filter(|(module, _)| !matches!(module.first().map(String::as_str), Some("lib" | "main" | "layout" | "bin") | None))
        .filter(|(module, _)| !module.iter().any(|segment| segment == "tests"))
        .collect()
}

#[test]
fn the_table_of_modules_is_true() {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, code) in modules() {
        let top = module[0].clone();
        let named = crate_paths(&code, &module).into_iter().filter_map(|path| path.into_iter().next()).filter(|name| !name.is_empty());
        imports.entry(top.clone()).or_default().extend(named.filter(|other| *other != top));
    }
    let lib = fs::read_to_string(Path::new(SOURCE).join("lib.rs")).unwrap();
    let mut above = BTreeSet::new();
    for row in lib.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let module = columns[0].trim_end_matches("`]");
        let listed: BTreeSet<String> =
            columns[2].split(',').map(|name| name.trim().trim_matches('`').to_owned()).filter(|name| !name.is_empty()).collect();
        let found = imports.remove(module).unwrap_or_else(|| panic!("{module} is in the table of lib.rs but not in src"));
        assert_eq!(listed, found, "what {module} imports: the table of lib.rs, and the use lines");
        assert!(found.is_subset(&above), "{module} imports {:?}, which is not above it in lib.rs", found.difference(&above));
        above.insert(module.to_owned());
    }
    assert!(imports.is_empty(), "not in the table of lib.rs: {:?}", imports.keys());
}

#[test]
fn no_two_files_import_each_other_in_a_circle() {
    let modules = modules();
    let passed_on = passed_on(&modules);
    // A folder's `mod.rs` gathers its files and may be named by them; a circle is one of files beside each other, or of folders.
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (module, code) in &modules {
        for path in crate_paths(code, module).into_iter().map(|path| resolved(path, &passed_on)) {
            for depth in 1..module.len() {
                let (one, other) = (&module[..=depth], path.get(..=depth));
                let Some(other) = other.filter(|other| other[..depth] == module[..depth] && *other != one) else { continue };
                if modules.contains_key(other) {
                    edges.entry(one.to_vec()).or_default().insert(other.to_vec());
                }
            }
        }
    }
    let mut left: BTreeSet<Vec<String>> = edges.keys().cloned().chain(edges.values().flatten().cloned()).collect();
    // Who imports none of the others is in no circle, and neither is whom none of the others imports.
    loop {
        let imports = |one: &Vec<String>, other: &Vec<String>| edges.get(one).is_some_and(|others| others.contains(other));
        let is_free = |one: &&Vec<String>| !left.iter().any(|other| imports(one, other)) || !left.iter().any(|other| imports(other, one));
        let free: Vec<Vec<String>> = left.iter().filter(is_free).cloned().collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module| !free.contains(module));
    }
    let others = |module: &Vec<String>| edges[module].intersection(&left).map(|other| other.join("::")).collect::<Vec<_>>().join(", ");
    let circle: Vec<String> = left.iter().map(|module| format!("{} imports {}", module.join("::"), others(module))).collect();
    assert!(circle.is_empty(), "files import each other in a circle:\n{}", circle.join("\n"));
}
