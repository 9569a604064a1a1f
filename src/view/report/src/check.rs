//! Checks of pages for tests, by the parser of a browser.

use crate::html::{STYLE, policy};
use html5ever::tendril::TendrilSink;
use html5ever::{ParseOpts, parse_document};
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use std::collections::{BTreeMap, BTreeSet};

/// The elements that a page may have.
const ELEMENTS: &[&str] = &[
    "a",
    "b",
    "bdi",
    "body",
    "br",
    "caption",
    "circle",
    "code",
    "dd",
    "desc",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "h1",
    "h2",
    "h3",
    "head",
    "header",
    "html",
    "li",
    "main",
    "meta",
    "nav",
    "p",
    "path",
    "section",
    "small",
    "span",
    "strong",
    "style",
    "svg",
    "table",
    "tbody",
    "td",
    "text",
    "th",
    "thead",
    "title",
    "tr",
    "ul",
];

/// The attributes that a page may have. None of them loads or runs anything; `href` is checked to stay in the page.
const ATTRIBUTES: &[&str] = &[
    "aria-hidden",
    "aria-label",
    "aria-labelledby",
    "charset",
    "class",
    "content",
    "cx",
    "cy",
    "d",
    "data-label",
    "href",
    "http-equiv",
    "id",
    "lang",
    "name",
    "preserveAspectRatio",
    "r",
    "role",
    "scope",
    "text-anchor",
    "viewBox",
    "x",
    "y",
];

/// What was found on a page.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// All text, without that of the style.
    pub(crate) text: String,
    ids: BTreeSet<String>,
    links: Vec<String>,
    headings: Vec<u8>,
    styles: Vec<String>,
    policies: Vec<String>,
}

/// Parses a page as a browser does, and checks it: no error of syntax; only known elements and attributes, so no script
/// and nothing from outside; unique ids; links and labels that lead somewhere; headings in order; headers of tables with
/// a scope; charts with a title.
///
/// # Panics
/// When something is wrong.
pub(crate) fn check(html: &str) -> Found {
    let dom = parse_document(RcDom::default(), ParseOpts::default()).one(html);
    assert!(dom.errors.borrow().is_empty(), "{:?}", dom.errors.borrow());
    let mut found = Found::default();
    visit(&dom.document, &mut found);
    assert_eq!(found.styles, [STYLE], "one style");
    assert_eq!(found.policies, [policy()], "one policy");
    for link in &found.links {
        assert!(found.ids.contains(link), "no element has the id {link}");
    }
    assert_eq!(found.headings.iter().filter(|level| **level == 1).count(), 1, "one main heading");
    assert!(found.headings.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{:?}", found.headings);
    found
}

fn visit(node: &Handle, found: &mut Found) {
    match &node.data {
        NodeData::Text { contents } => found.text.push_str(&contents.borrow()),
        NodeData::Comment { contents } => panic!("a comment: {contents}"),
        NodeData::ProcessingInstruction { .. } => panic!("an instruction"),
        NodeData::Doctype { name, public_id, system_id } => {
            assert_eq!((&**name, &**public_id, &**system_id), ("html", "", ""));
        }
        NodeData::Document => {}
        NodeData::Element { name, attrs, .. } => {
            let name = &*name.local;
            let attributes: BTreeMap<String, String> = attrs
                .borrow()
                .iter()
                .map(|attribute| (attribute.name.local.to_string(), attribute.value.to_string()))
                .collect();
            element(node, name, &attributes, found);
            if name == "style" {
                return;
            }
        }
    }
    for child in node.children.borrow().iter() {
        visit(child, found);
    }
}

fn element(node: &Handle, name: &str, attributes: &BTreeMap<String, String>, found: &mut Found) {
    assert!(ELEMENTS.contains(&name), "<{name}>");
    let value = |key: &str| attributes.get(key).map(String::as_str);
    for (key, value) in attributes {
        assert!(ATTRIBUTES.contains(&key.as_str()), "{key}=\"{value}\"");
    }
    if let Some(id) = value("id") {
        assert!(found.ids.insert(id.to_owned()), "the id {id} twice");
    }
    if let Some(link) = value("href") {
        found.links.push(link.strip_prefix('#').expect("a link within the page").to_owned());
    }
    found.links.extend(value("aria-labelledby").into_iter().flat_map(|ids| ids.split(' ')).map(str::to_owned));
    match name {
        "h1" | "h2" | "h3" => found.headings.push(name.as_bytes()[1] - b'0'),
        "th" => assert!(matches!(value("scope"), Some("col" | "row")), "a header without a scope"),
        "svg" => {
            let is_named = value("aria-label").is_some() || value("aria-labelledby").is_some();
            let is_picture = value("role") == Some("img") && is_named;
            assert!(value("aria-hidden") == Some("true") || is_picture, "a picture without a name");
        }
        "meta" if value("http-equiv").is_some() => {
            assert_eq!(value("http-equiv"), Some("Content-Security-Policy"));
            found.policies.push(value("content").expect("a policy").to_owned());
        }
        "style" => {
            let children = node.children.borrow();
            let [child] = &children[..] else { panic!("a style is one text") };
            let NodeData::Text { contents } = &child.data else { panic!("a style is text") };
            found.styles.push(contents.borrow().to_string());
        }
        _ => {}
    }
}
