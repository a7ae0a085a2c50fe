//! The picture as one file: markup, style, script and data, nothing from anywhere else.
//!
//! The three are kept as files of their own (in `viewer/`) and joined here; the
//! data stands in script elements of a type that no browser runs.

use super::draw::quoted;
use crate::safety::Violation;

const PAGE: &str = include_str!("viewer/page.html");
const STYLE: &str = include_str!("viewer/style.css");
/// One script in pieces: what the page carries, the drawing of it, the panels, the hands.
const SCRIPT: &str = concat!(
    include_str!("viewer/data.js"),
    include_str!("viewer/sheet.js"),
    include_str!("viewer/lanes.js"),
    include_str!("viewer/margins.js"),
    include_str!("viewer/panels.js"),
    include_str!("viewer/main.js"),
);

/// No picture is larger.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// What the page says of the run besides its story.
pub struct Caption<'a> {
    pub seed: &'a str,
    pub violation: Option<&'a Violation>,
    pub plan: &'a str,
    pub replay: &'a str,
}

pub fn page(caption: &Caption<'_>, story: &str) -> String {
    let violation = match caption.violation {
        Some(v) => format!("{{\"rule\":{},\"detail\":{}}}", quoted(v.rule), quoted(&v.detail)),
        None => "null".to_owned(),
    };
    let head = format!(
        "{{\"seed\":{},\"violation\":{violation},\"plan\":{},\"replay\":{}}}",
        quoted(caption.seed),
        quoted(caption.plan),
        quoted(caption.replay)
    );
    let mut out = String::with_capacity(story.len() + PAGE.len() + STYLE.len() + SCRIPT.len());
    let mut rest = PAGE;
    for (mark, text) in [
        ("/*STYLE*/", STYLE),
        ("/*HEAD*/", head.as_str()),
        ("/*STORY*/", story),
        ("/*SCRIPT*/", SCRIPT),
    ] {
        let (before, after) = rest.split_once(mark).expect("the page has each mark, in this order");
        out += before;
        out += text;
        rest = after;
    }
    out + rest
}

/// The data that a page carries, as the browser would read it.
pub fn embedded(page: &str, id: &str) -> Result<serde_json::Value, String> {
    let open = format!("<script type=\"application/json\" id=\"{id}\">");
    let (_, rest) = page.split_once(&open).ok_or(format!("no element {id}"))?;
    let (json, _) = rest.split_once("</script>").ok_or(format!("{id} does not end"))?;
    serde_json::from_str(json).map_err(|error| format!("{id}: {error}"))
}

/// Whether the picture of a failed run has in it what somebody will look for.
pub fn shows(seed: &str, violation: &Violation, story: &str) -> Result<(), String> {
    let caption = Caption { seed, violation: Some(violation), plan: "", replay: "" };
    let page = page(&caption, story);
    let (head, story) = (embedded(&page, "head")?, embedded(&page, "story")?);
    let told = |what: bool, which: &str| if what { Ok(()) } else { Err(which.to_owned()) };
    told(head["violation"]["rule"] == violation.rule, "the rule")?;
    told(head["violation"]["detail"] == violation.detail.as_str(), "the detail")?;
    let items = |name: &str| story[name].as_array().map_or(0, Vec::len);
    told(items("replicas") > 0 && items("texts") > 0, "the replicas")?;
    for kind in [1, 2, 3, 4, 5] {
        let events = story["events"].as_array().ok_or("the events")?;
        told(events.iter().any(|e| e[0] == kind), &format!("events of kind {kind}"))?;
    }
    told(page.len() < PAGE_BYTES_MAX, &format!("{} bytes are too many", page.len()))
}

/// Negative control: texts that would break out of the page arrive as they were.
pub fn self_check() {
    let nasty = "</script><script>alert(1)</script><!-- \u{2028} \"\\ \u{1} ü";
    let violation = Violation { rule: "canary", detail: nasty.to_owned() };
    let caption = Caption { seed: "7", violation: Some(&violation), plan: nasty, replay: nasty };
    let story = format!("{{\"texts\":[{}]}}", quoted(nasty));
    let page = page(&caption, &story);
    assert_eq!(page.matches("</script>").count(), 3, "an element of the page ends where it should");
    let head = embedded(&page, "head").expect("the caption is JSON");
    assert_eq!(head["violation"]["detail"], nasty);
    assert_eq!(embedded(&page, "story").expect("the story is JSON")["texts"][0], nasty);
}
