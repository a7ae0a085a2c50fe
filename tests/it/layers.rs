//! The rules of the house that the compiler does not know: which room may name which, and what
//! only the edges may touch. A failure names the file, the line, the rule and its reason.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One source file of the library, comments and texts blanked out.
struct Source {
    /// Below `src/`, with slashes.
    path: String,
    code: String,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }
    /// Whether the file is a module's tests.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
    /// The lines that end up in the program: without a test module at the end.
    fn program(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.code.find("#[cfg(test)]\nmod tests {").unwrap_or(self.code.len());
        self.code[..end].lines().enumerate().map(|(at, line)| (at + 1, line))
    }
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(at, line)| (at + 1, line))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("src is readable").flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                let below = path.strip_prefix(&root).expect("below src");
                let path = below.to_string_lossy().replace('\\', "/");
                if path != "lib.rs" && !path.starts_with("bin/") {
                    found.push(Source { path, code: blank_out(&text) });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// Comments and the insides of texts become spaces; lines stay where they are.
fn blank_out(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let end = if c == '/' && at(i + 1) == '/' {
            (i..chars.len()).find(|&j| chars[j] == '\n').unwrap_or(chars.len())
        } else if c == '/' && at(i + 1) == '*' {
            let close = |j: &usize| chars[*j] == '*' && at(j + 1) == '/';
            (i + 2..chars.len()).find(close).map_or(chars.len(), |j| j + 2)
        } else if c == 'r' && (at(i + 1) == '"' || at(i + 1) == '#' && at(i + 2) == '"') {
            // r"..." or r#"..."#; nobody needs more.
            let hash = at(i + 1) == '#';
            let start = if hash { i + 3 } else { i + 2 };
            let close = |j: &usize| chars[*j] == '"' && (!hash || at(j + 1) == '#');
            (start..chars.len()).find(close).map_or(chars.len(), |j| j + 1)
        } else if c == '"' {
            let mut j = i + 1;
            while j < chars.len() && chars[j] != '"' {
                j += if chars[j] == '\\' { 2 } else { 1 };
            }
            j + 1
        } else if c == '\'' && (at(i + 2) == '\'' || at(i + 1) == '\\') {
            // A character, not a lifetime.
            (i + 2..chars.len()).find(|&j| chars[j] == '\'').map_or(chars.len(), |j| j + 1)
        } else {
            out.push(c);
            i += 1;
            continue;
        };
        let end = end.min(chars.len());
        out.extend(chars[i..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        i = end;
    }
    out
}

/// The rooms with their layers, from the comments (`// L2: ...`) and `mod` lines of lib.rs.
fn layers() -> Vec<(String, u32)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = std::fs::read_to_string(path).expect("lib.rs is readable");
    let mut rooms = Vec::new();
    let mut layer = None;
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("// L").and_then(|rest| rest.split(':').next()) {
            let number = number.parse().expect("a layer's number");
            assert!(layer < Some(number), "lib.rs: layer {number} is out of order");
            layer = Some(number);
        } else if let Some(room) = line.strip_prefix("pub mod ").and_then(|l| l.strip_suffix(';')) {
            rooms.push((room.to_string(), layer.expect("a layer comment before the first mod")));
        }
    }
    rooms
}

/// The rooms that a line names as `crate::room` or in `crate::{room::..., other::...}`.
fn named_rooms(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let word = |text: &str| {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` in a macro is the library as well; `other_crate::` is not.
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push((line, word(rest)));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push((line, word(std::mem::take(&mut item).trim()))),
                _ => {}
            }
            if depth == 0 && c != ',' {
                item.push(c);
            }
        }
        found.push((line, word(item.trim())));
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn report(broken: &[String], rule: &str) {
    let mut text = String::new();
    for line in broken {
        writeln!(text, "  {line}").expect("a String takes all");
    }
    assert!(broken.is_empty(), "{rule}\n{text}");
}

#[test]
fn a_room_names_only_rooms_below_it() {
    let layers = layers();
    let layer = |room: &str| layers.iter().find(|(name, _)| name == room).map(|(_, layer)| *layer);
    let mut broken = Vec::new();
    for source in sources() {
        let Some(own) = layer(source.room()) else {
            broken.push(format!("src/{}: lib.rs has no such room", source.path));
            continue;
        };
        for (line, name) in named_rooms(&source.code) {
            let Some(other) = layer(&name) else { continue };
            if name != source.room() && other >= own {
                broken.push(format!(
                    "src/{}:{line}: {} (L{own}) names {name} (L{other})",
                    source.path,
                    source.room()
                ));
            }
        }
        // `super::` chains that climb out of the room.
        let depth =
            source.path.matches('/').count() + usize::from(!source.path.ends_with("mod.rs"));
        for (line, code) in source.lines() {
            let Some(start) = code.find("super::super::") else { continue };
            let chain = code[start..].split("::").take_while(|part| *part == "super").count();
            let next = code[start..].split("::").nth(chain).unwrap_or_default();
            if chain >= depth && layer(next.trim_end_matches(';')).is_some() {
                broken.push(format!("src/{}:{line}: write crate::{next}", source.path));
            }
        }
    }
    report(
        &broken,
        "A room names only rooms with a lower layer (src/lib.rs gives the layers; wal, btree and \
         raft are strangers, so are codec and io). Move the type down, or pass the value in:",
    );
}

/// A word that some files must not contain, and why.
struct Ban {
    word: &'static str,
    why: &'static str,
}

const CLOCKS: &[Ban] = &[
    Ban { word: "Instant", why: "time is an input; ask the Clock of io" },
    Ban { word: "SystemTime", why: "time is an input; ask the Clock of io" },
];
const CHANCE: &[Ban] = &[
    Ban { word: "rand::", why: "chance comes from a seed: types::prng" },
    Ban { word: "RandomState", why: "its order differs from run to run: types::map" },
    Ban { word: "HashMap", why: "its order differs from run to run: types::map or BTreeMap" },
    Ban { word: "HashSet", why: "its order differs from run to run: types::map or BTreeSet" },
    Ban { word: "hashbrown", why: "its default hasher is seeded from addresses: types::map" },
];
const OUTSIDE: &[Ban] = &[
    Ban { word: "std::fs", why: "files are reached through the Disk of io" },
    Ban { word: "std::net", why: "sockets are reached through the Net of io" },
    Ban { word: "std::thread", why: "threads are started through the Tasks of io" },
    Ban { word: "std::process", why: "a process belongs to cli and bin" },
    Ban { word: "std::env", why: "the environment belongs to cli" },
];
const ASYNC: &[Ban] = &[
    Ban { word: "tokio", why: "below the async shell everything is plain synchronous code" },
    Ban { word: "madsim::", why: "the library never names the simulator" },
    Ban { word: "async", why: "below the async shell everything is plain synchronous code" },
    Ban { word: ".await", why: "below the async shell everything is plain synchronous code" },
];
const TOKIO_EDGE: &[Ban] = &[
    Ban { word: "tokio::time", why: "time goes through io, so that the simulator owns it" },
    Ban { word: "tokio::net", why: "sockets go through io, so that the simulator owns them" },
    Ban { word: "tokio::fs", why: "files go through io, so that the simulator owns them" },
    Ban { word: "tokio::spawn", why: "tasks go through io, so that the simulator owns them" },
    Ban { word: "tokio::task", why: "tasks go through io, so that the simulator owns them" },
    Ban { word: "tokio::runtime", why: "tasks go through io, so that the simulator owns them" },
    Ban { word: "sync::watch", why: "it draws random numbers inside" },
    Ban { word: "select!", why: "its order is random: use io's biased_select!" },
];
const WIRE: &[Ban] = &[
    Ban { word: "tonic", why: "the client wire belongs to api" },
    Ban { word: "prost", why: "the client wire belongs to api" },
];

/// Files that are the edge itself: what they may name is why they exist.
const EDGES: &[(&str, &[&str])] = &[
    ("io/os_disk.rs", &["std::fs"]),
    (
        "io/tokio_backend.rs",
        &[
            "tokio",
            "async",
            ".await",
            "tokio::time",
            "tokio::net",
            "tokio::spawn",
            "tokio::task",
            "tokio::runtime",
            "Instant",
            "SystemTime",
            "std::thread",
            "std::net",
            "rand::",
            "select!",
        ],
    ),
    // `Clock`, `Net` and `Tasks` speak in futures; `biased_select` waits for some.
    ("io/select.rs", &["async", ".await"]),
    ("io/net.rs", &["async", ".await"]),
    ("io/tasks.rs", &["tokio", "async", ".await"]),
    ("io/clock.rs", &["async", ".await"]),
    ("types/map.rs", &["hashbrown", "HashMap", "HashSet"]),
    (
        "api/server.rs",
        &[
            "tokio::net",
            "tokio::task",
            "tokio::time",
            "tokio::spawn",
            "tokio::runtime",
            "std::net",
            "std::thread",
        ],
    ),
    // The kernel's counters of this process: no simulated disk could answer for /proc.
    ("api/metrics.rs", &["std::fs"]),
];

fn banned_in(room: &str) -> Vec<&'static [Ban]> {
    match room {
        "types" | "codec" | "io" | "wal" | "btree" | "raft" | "mvcc" | "multiraft" => {
            vec![CLOCKS, CHANCE, OUTSIDE, ASYNC, TOKIO_EDGE, WIRE]
        }
        "transport" | "node" => vec![CLOCKS, CHANCE, OUTSIDE, TOKIO_EDGE, WIRE],
        "api" => vec![CLOCKS, CHANCE, OUTSIDE, TOKIO_EDGE],
        // The command line is the outermost edge.
        _ => vec![],
    }
}

/// Whether `word` stands in `line` as a word: `std::time` is not in `std::timetable`.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open = word.starts_with(|c: char| !part(c)) || !before.is_some_and(part);
        let close = word.ends_with(|c: char| !part(c)) || !after.is_some_and(part);
        // `types::map::Map` is ours; a path that ends in the word is the same word.
        open && close
    })
}

#[test]
fn only_the_edges_touch_the_outside() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let allowed: &[&str] =
            EDGES.iter().find(|(path, _)| *path == source.path).map_or(&[], |(_, words)| words);
        for (line, code) in source.program() {
            for ban in banned_in(source.room()).into_iter().flatten() {
                if !allowed.contains(&ban.word) && has_word(code, ban.word) {
                    broken.push(format!("src/{}:{line}: `{}`: {}", source.path, ban.word, ban.why));
                }
            }
        }
    }
    report(
        &broken,
        "One seed must give one history, so only the edge files (EDGES in tests/it/layers.rs) may \
         name clocks, chance, files, sockets, threads and the runtime:",
    );
}

#[test]
fn the_rules_bite() {
    let code = blank_out(
        "// tokio::spawn\nlet a = \"std::fs\"; let b = 'x'; fn f<'a>() {}\nlet c = r\"Instant\";\n",
    );
    for word in ["tokio", "std::fs", "Instant"] {
        assert!(!has_word(&code, word), "{word} in {code}");
    }
    assert_eq!(code.lines().count(), 3);
    assert!(has_word("use std::time::Duration;", "std::time"));
    assert!(has_word("x.await?", ".await"));
    assert!(has_word("let m: HashMap<u8, u8>;", "HashMap"));
    assert!(!has_word("let my_async = brand::new();", "async"));
    assert!(!has_word("brand::new()", "rand::"));
    let named: Vec<String> =
        named_rooms("use crate::{btree::Store, raft::{a, b}, wal};\ncrate::node::x")
            .into_iter()
            .map(|(_, name)| name)
            .collect();
    assert_eq!(named, ["btree", "raft", "wal", "node"]);
    let rooms = layers();
    let layer = |name: &str| rooms.iter().find(|(room, _)| room == name).map(|(_, l)| *l);
    assert_eq!((layer("types"), layer("raft"), layer("cli")), (Some(0), Some(2), Some(9)));
    assert_eq!(layer("wal"), layer("btree"));
}

/// The simulator works by overriding system calls. Even built with feature `sim`, the server must
/// not hold them: the library never names madsim, so it is linked into the `sim` target alone.
#[test]
fn the_server_overrides_no_system_call() {
    let nm = std::process::Command::new("nm")
        .args(["-D", "--defined-only", env!("CARGO_BIN_EXE_quorate")])
        .output();
    let Ok(output) = nm else {
        let text = "SKIPPED the_server_overrides_no_system_call: nm is not installed (binutils)";
        assert!(std::env::var_os("QUORATE_REQUIRE_EXTERNAL").is_none(), "{text}");
        println!("{text}");
        return;
    };
    let symbols = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for name in ["clock_gettime", "getrandom", "gettimeofday", "pthread_attr_init"] {
        let defined = symbols.lines().any(|line| line.ends_with(&format!(" T {name}")));
        assert!(!defined, "the server defines {name}: madsim is linked into it");
    }
}
