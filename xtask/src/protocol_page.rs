//! The page of the protocol against the protocol itself.

use crate::workspace::Workspace;
use afterimage_area_abi::{Level, PrimaryId};
use afterimage_delta::{Chain, Epoch, Term};
use afterimage_protocol::frame::{HEADER_LEN, MAGIC, MAX_GREETING, MAX_PAYLOAD};
use afterimage_protocol::{
    Hello, Message, PROTOCOL_VERSION, Position, Refusal, RefusalCode, Welcome,
};

const PAGE: &str = "docs/reference/protocol.md";

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    match workspace.text(PAGE) {
        Some(page) => compare(page),
        None => vec![format!("{PAGE}: is not there")],
    }
}

fn compare(page: &str) -> Vec<String> {
    let facts = facts();
    let absent = facts.iter().filter(|fact| !page.contains(fact.as_str()));
    absent
        .map(|fact| format!("{PAGE}: lacks \"{fact}\""))
        .collect()
}

/// Pieces of text that the page must have, made from the code's own constants.
fn facts() -> Vec<String> {
    let mut facts = vec![
        format!("version {PROTOCOL_VERSION}"),
        String::from_utf8_lossy(&MAGIC).into_owned(),
        format!("| {HEADER_LEN} | length | payload |"),
        format!("| payload of a frame | {MAX_PAYLOAD} |"),
        format!("| message before the area is known | {MAX_GREETING} |"),
    ];
    for (name, message) in messages() {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        facts.push(format!(
            "| {} | `{name}` | {} |",
            bytes[4],
            bytes.len() - HEADER_LEN
        ));
    }
    let codes = (1..).map(|n| (n, RefusalCode::from_code(n)));
    let known = codes.take_while(|(_, code)| !matches!(code, RefusalCode::Other(_)));
    facts.extend(known.map(|(number, code)| format!("| {number} | `{code}` |")));
    let levels = [Level::Local, Level::Sent, Level::Replicated, Level::Durable];
    facts.extend(levels.map(|level| format!("{} `{level:?}`", level.code()).to_lowercase()));
    facts
}

/// One message of each kind, without the part of variable length.
fn messages() -> Vec<(&'static str, Message)> {
    let name = "x".parse().expect("a sound name");
    let (term, epoch, position) = (Term(1), Epoch(1), Position::default());
    let hello = Hello {
        name,
        len: 4096,
        term,
        primary: PrimaryId([1; 16]),
        position,
        pending: Some(Chain(1)),
    };
    let refusal = Refusal {
        code: RefusalCode::Fenced,
        term,
        epoch,
        text: String::new(),
    };
    let name = hello.name.clone();
    let level = Level::Durable;
    vec![
        ("Hello", Message::Hello(hello)),
        (
            "Welcome",
            Message::Welcome(Welcome {
                term,
                position,
                image_follows: false,
            }),
        ),
        ("Refused", Message::Refused(refusal)),
        (
            "Delta",
            Message::Delta {
                term,
                level,
                epoch,
                previous: Chain(1),
                payload: Vec::new(),
            },
        ),
        ("Ack", Message::Ack { epoch, level }),
        (
            "ImageBegin",
            Message::ImageBegin {
                term,
                len: 4096,
                position,
            },
        ),
        (
            "ImageChunk",
            Message::ImageChunk {
                offset: 0,
                bytes: Vec::new(),
            },
        ),
        ("ImageEnd", Message::ImageEnd { checksum: 0 }),
        ("Promote", Message::Promote { name }),
        ("Promoted", Message::Promoted { term, epoch }),
        ("StatusQuery", Message::StatusQuery),
        ("Status", Message::Status { json: Vec::new() }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_with_every_fact_passes_and_one_without_any_of_them_fails() {
        let facts = facts();
        assert_eq!(compare(&facts.join("\n")).len(), 0);
        for left_out in 0..facts.len() {
            let mut others = facts.clone();
            let gone = others.remove(left_out);
            let page = others.join("\n");
            assert!(!compare(&page).is_empty() || page.contains(&gone), "{gone}");
        }
        assert_eq!(compare("").len(), facts.len());
    }
}
