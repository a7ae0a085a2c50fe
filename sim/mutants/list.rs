//! The list of mistakes: its form, and where each one goes into the source.
//!
//! A `find` text must occur exactly once in its file and no two may overlap, so that all mistakes
//! fit into one copy of the tree, each behind a switch of its own.

use std::collections::BTreeMap;
use std::ops::Range;

/// One deliberate mistake, as `list.txt` describes it.
#[derive(Clone, Debug, Default)]
pub struct Mutant {
    pub name: String,
    pub room: String,
    pub file: String,
    pub find: String,
    pub replace: String,
    pub why: String,
    /// Rules that should see it.
    pub by: String,
    /// For one that was not seen: what the simulator would need.
    pub lacks: String,
}

/// Reads the list. The error names the line.
pub fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| format!("list.txt, line {}: {what}", number + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').ok_or_else(|| wrong("a word and a text"))?;
        if word == "mutant" {
            mutants.push(Mutant { name: rest.to_string(), ..Mutant::default() });
            continue;
        }
        let mutant = mutants.last_mut().ok_or_else(|| wrong("no mutant has begun"))?;
        let field = match word {
            "room" => &mut mutant.room,
            "file" => &mut mutant.file,
            "-" => &mut mutant.find,
            "+" => &mut mutant.replace,
            "why" => &mut mutant.why,
            "by" => &mut mutant.by,
            "lacks" => &mut mutant.lacks,
            _ => return Err(wrong("an unknown word")),
        };
        if !field.is_empty() {
            field.push('\n');
        }
        field.push_str(rest);
    }
    for mutant in &mutants {
        let Mutant { name, room, file, find, replace, why, by, .. } = mutant;
        if [room, file, find, why, by].iter().any(|field| field.is_empty()) {
            return Err(format!("{name}: a field is missing"));
        }
        if !replace.contains("MUTANT") {
            return Err(format!("{name}: the new text has no MUTANT"));
        }
        if mutants.iter().filter(|other| other.name == *name).count() > 1 {
            return Err(format!("{name}: two have this name"));
        }
    }
    Ok(mutants)
}

/// The mistakes by file, each with its number, which is its switch.
pub fn by_file(mutants: &[Mutant]) -> BTreeMap<&str, Vec<(usize, &Mutant)>> {
    let mut files: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        files.entry(&mutant.file).or_default().push((number, mutant));
    }
    files
}

/// `source` with every mistake of its file put in.
pub fn plant(source: &str, mutants: &[(usize, &Mutant)]) -> Result<String, String> {
    let mut places: Vec<(Range<usize>, String)> = Vec::new();
    for (number, mutant) in mutants {
        let at = place(source, mutant)?;
        let switch = format!("crate::mutant::on({number})");
        places.push((at, mutant.replace.replace("MUTANT", &switch)));
    }
    places.sort_by_key(|(at, _)| at.start);
    if let Some(pair) = places.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        return Err(format!("two mistakes share the text {:?}", &source[pair[1].0.clone()]));
    }
    let mut planted = source.to_string();
    for (at, text) in places.into_iter().rev() {
        planted.replace_range(at, &text);
    }
    Ok(planted)
}

fn place(source: &str, mutant: &Mutant) -> Result<Range<usize>, String> {
    let Mutant { name, file, find, .. } = mutant;
    let mut found = source.match_indices(find.as_str());
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(at..at + find.len()),
        (None, _) => Err(format!("{name}: {file} does not say this any more: {find}")),
        (Some(_), Some(_)) => Err(format!("{name}: {file} says this more than once: {find}")),
    }
}

/// The module that the copy's library gets: one switch of the environment, read once.
pub fn switch_module(mutants: &[Mutant]) -> String {
    let names: Vec<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    format!(
        "use std::sync::LazyLock;\n\
         const NAMES: [&str; {}] = {names:?};\n\
         static ON: LazyLock<usize> = LazyLock::new(|| {{\n\
             let wanted = std::env::var(\"MUTANT\").unwrap_or_default();\n\
             NAMES.iter().position(|name| *name == wanted).unwrap_or(usize::MAX)\n\
         }});\n\
         #[inline]\n\
         pub fn on(number: usize) -> bool {{\n\
             *ON == number\n\
         }}\n",
        names.len()
    )
}
