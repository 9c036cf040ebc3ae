//! The picture as one HTML page: no script, nothing fetched, nothing of the users' that is not
//! escaped; readable in light and dark, on paper, and by a screen reader.
//!
//! 1. Every text that is not a constant of ours goes through `esc`; a policy in the page forbids
//!    scripts and every request besides.
//! 2. What an edge shows when it is pointed at stands in the text, too: its drawing links there.
//! 3. Colours never say anything alone: edges differ in their strokes and are labelled, ends differ
//!    in their marks.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::selection::Selection;
use super::text::{counted, harmless, shown};
use super::words::Told;
use super::{EdgeKind, End, Operation, Picture, Verdict};

mod graph;
mod timeline;

const STYLE: &str = include_str!("page/style.css");
/// No scripts, no requests: even if something got through, it could do nothing.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Text as HTML, in an element or in a quoted attribute.
pub(super) fn esc(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // The line breaks of a generated test are the only control characters that get here.
            '\n' => safe.push(char),
            _ if char.is_control() => safe.push('\u{fffd}'),
            _ => safe.push(char),
        }
    }
    safe
}

/// The class of a kind of edge.
fn class(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::WriteWrite => "ww",
        EdgeKind::WriteRead => "wr",
        EdgeKind::ReadWrite => "rw",
        EdgeKind::PredicateReadWrite => "prw",
        EdgeKind::PredicateWriteRead => "pwr",
        EdgeKind::Process => "process",
        EdgeKind::RealTime => "realtime",
    }
}

impl Picture {
    /// The page.
    pub fn html(&self) -> String {
        let selection = Selection::of(self);
        let mut page = String::new();
        let title = esc(&self.title());
        let _ = write!(
            page,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <meta name=\"referrer\" content=\"no-referrer\">\n\
             <title>{title}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n",
            pointing(&selection)
        );
        self.page_head(&mut page);
        self.page_lanes(&mut page, &selection);
        self.page_order(&mut page, &selection);
        self.page_transactions(&mut page, &selection);
        self.page_steps(&mut page, &selection);
        self.page_replay(&mut page);
        page.push_str("</main>\n<footer class=\"foot\">Drawn by isolith. The page fetches nothing and runs no script.</footer>\n</body>\n</html>\n");
        page
    }

    fn page_head(&self, page: &mut String) {
        let (name, title) = (harmless(&self.anomaly.name), harmless(&self.anomaly.title));
        let (head, name) = match (title.is_empty(), name.is_empty()) {
            (false, false) if name != title => (capitalised(&title), name),
            _ => (capitalised(&self.title()), String::new()),
        };
        let (tone, mark) = match self.verdict {
            Verdict::Allowed => ("warn", "!"),
            Verdict::Forbidden(_) => ("bad", "✗"),
            Verdict::Prevented(_) => ("fine", "✓"),
        };
        let _ = writeln!(page, "<header class=\"head\">\n<p class=\"kicker\">Isolation anomaly");
        if !name.is_empty() {
            let _ = writeln!(page, "· <span class=\"name\">{}</span>", esc(&name));
        }
        let _ = writeln!(
            page,
            "</p>\n<h1>{}</h1>\n<p class=\"verdict {tone}\"><b aria-hidden=\"true\">{mark}</b>\
             <span>{}</span></p>\n</header>",
            esc(&head),
            esc(&self.verdict_sentence())
        );
        if !self.anomaly.definition.is_empty() {
            let definition = esc(&harmless(&self.anomaly.definition));
            let _ = writeln!(page, "<p class=\"definition\">{definition}</p>");
        }
        if !self.anomaly.source.is_empty() {
            let source = esc(&harmless(&self.anomaly.source));
            let _ = writeln!(page, "<p class=\"source\">Defined in <cite>{source}</cite>.</p>");
        }
        if !self.anomaly.forbidden_by.is_empty() {
            let level = |level: &String| format!("<code>{}</code>", esc(&harmless(level)));
            let levels: Vec<String> = self.anomaly.forbidden_by.iter().map(level).collect();
            let _ = writeln!(page, "<p>Levels that forbid it: {}.</p>", levels.join(", "));
        }
    }

    fn page_lanes(&self, page: &mut String, selection: &Selection) {
        page.push_str(
            "<section aria-labelledby=\"happened\">\n<h2 id=\"happened\">What happened</h2>\n",
        );
        if !self.initial.is_empty() {
            let pair = |(key, value): &(Vec<u8>, Vec<u8>)| {
                let (name, value) = (esc(&shown(key, 40)), esc(&shown(value, 40)));
                format!("<code>{name} = {value}</code>{}", self.lasting(key))
            };
            let mut pairs: Vec<String> = self.initial.iter().take(12).map(pair).collect();
            if self.initial.len() > 12 {
                pairs.push(format!("{} more", counted(self.initial.len() as u64 - 12)));
            }
            let _ = writeln!(page, "<p>At first: {}.</p>", pairs.join(", "));
        }
        if let Some(protection) = self.protection_of_all() {
            let protection = esc(&protection);
            let _ = writeln!(page, "<p>All transactions run at <code>{protection}</code>.</p>");
        }
        page.push_str("<figure>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"What happened, lane by lane\">\n");
        self.timeline(page, selection);
        page.push_str(
            "</div>\n<figcaption>One lane a session, time going down. An open circle reads, a full \
             one writes, a green one is a commit, a red cross a refusal; a striped stretch waits.",
        );
        if !selection.edges.is_empty() {
            page.push_str(" Arrows are the dependencies of the next section.");
        }
        page.push_str("</figcaption>\n</figure>\n");
        if let Some(note) = selection.note(self) {
            let _ = writeln!(page, "<p class=\"step-note\">{}</p>", esc(&note));
        }
        page.push_str("</section>\n");
    }

    fn page_order(&self, page: &mut String, selection: &Selection) {
        let told = self.told();
        if told.is_empty() && selection.edges.is_empty() && self.remarks.is_empty() {
            return;
        }
        let head = match (told.is_empty(), selection.edges.is_empty()) {
            (false, _) => "Why no order explains it",
            (true, false) => "Who came before whom",
            (true, true) => "What is to be said to it",
        };
        let _ = writeln!(page, "<section aria-labelledby=\"order\">\n<h2 id=\"order\">{head}</h2>");
        if !told.is_empty() {
            page.push_str(
                "<p>Had these transactions run one at a time, there would be an order in which \
                 they ran. What they saw says who had to come first:</p>\n",
            );
            self.page_because(page, &told);
            page.push_str(
                "<p class=\"contradiction\">A contradiction: going along the arrows leads back to \
                 where they began, so each of them would have to come before itself. No order of \
                 these transactions explains what they saw.</p>\n",
            );
        }
        for remark in &self.remarks {
            let _ = writeln!(page, "<p>{}</p>", esc(&harmless(remark)));
        }
        if !selection.edges.is_empty() {
            self.page_graph(page, selection);
        }
        let in_account: BTreeSet<usize> = told
            .iter()
            .filter_map(|told| match told {
                Told::Edge(edge, _) => Some(*edge),
                Told::Gap(_) => None,
            })
            .collect();
        let others: Vec<usize> =
            selection.edges.iter().copied().filter(|edge| !in_account.contains(edge)).collect();
        if !others.is_empty() {
            let words = if told.is_empty() { "The dependencies:" } else { "Further dependencies:" };
            let _ = writeln!(page, "<p>{words}</p>\n<ul class=\"because\">");
            for edge in others {
                self.page_edge(page, edge, "");
            }
            page.push_str("</ul>\n");
        }
        page.push_str("</section>\n");
    }

    fn page_because(&self, page: &mut String, told: &[Told]) {
        page.push_str("<ol class=\"because\">\n");
        for one in told {
            match one {
                Told::Gap(count) => {
                    let count = counted(*count as u64);
                    let _ = writeln!(page, "<li>… {count} more, each before the next …</li>");
                }
                Told::Edge(edge, last) => {
                    let however = if *last && told.len() > 1 { "However, " } else { "" };
                    self.page_edge(page, *edge, however);
                }
            }
        }
        page.push_str("</ol>\n");
    }

    fn page_edge(&self, page: &mut String, place: usize, however: &str) {
        let edge = &self.edges[place];
        let _ = writeln!(
            page,
            "<li id=\"edge-{place}\" class=\"{} e{place}\">{however}<strong>{}</strong> before \
             <strong>{}</strong>, because {}. <span class=\"label\">{}</span></li>",
            class(edge.kind),
            esc(&self.name(edge.from)),
            esc(&self.name(edge.to)),
            esc(&self.why(edge)),
            edge.kind.short(),
        );
    }

    fn page_graph(&self, page: &mut String, selection: &Selection) {
        page.push_str("<figure class=\"graph\">\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Who came before whom\">\n");
        self.graph(page, selection);
        page.push_str("</div>\n<p class=\"detail\" aria-hidden=\"true\"><span class=\"idle\">Point at an arrow or a transaction to see the operations behind it.</span>\n");
        for place in &selection.edges {
            let edge = &self.edges[*place];
            let _ = writeln!(
                page,
                "<span class=\"detail-e{place}\"><b>{} before {}</b> ({}): {}.</span>",
                esc(&self.name(edge.from)),
                esc(&self.name(edge.to)),
                edge.kind.short(),
                esc(&self.why(edge)),
            );
        }
        for transaction in &selection.transactions {
            let _ = writeln!(
                page,
                "<span class=\"detail-t{transaction}\"><b>{}</b>: {}.</span>",
                esc(&self.name(*transaction)),
                esc(&self.doings(*transaction)),
            );
        }
        page.push_str("</p>\n<figcaption>An arrow leads from who came first to who came after.</figcaption>\n<ul class=\"legend\" aria-label=\"Legend\">\n");
        let kinds: BTreeSet<EdgeKind> =
            selection.edges.iter().map(|edge| self.edges[*edge].kind).collect();
        for kind in kinds {
            let _ = writeln!(
                page,
                "<li class=\"{}\"><svg width=\"46\" height=\"14\" viewBox=\"0 0 46 14\" \
                 aria-hidden=\"true\"><path class=\"line\" d=\"M1 7H37\"/><path class=\"tip\" \
                 d=\"M46 7L35 2V12Z\"/></svg><span><b>{}</b>: {}</span></li>",
                class(kind),
                kind.short(),
                kind.meaning(),
            );
        }
        page.push_str("</ul>\n</figure>\n");
    }

    /// What a transaction did, in a line.
    pub(super) fn doings(&self, transaction: usize) -> String {
        let own = self.events.iter().filter(|event| event.transaction == Some(transaction));
        let telling = own.filter(|event| {
            let plain = event.outcome == super::Outcome::Done;
            !(plain && event.operation == Operation::Begin)
        });
        let labels: Vec<String> = telling.take(13).map(|event| self.label(event)).collect();
        match labels.as_slice() {
            [] => "nothing is known of what it did".into(),
            labels if labels.len() > 12 => format!("{}; …", labels[..12].join("; ")),
            labels => labels.join("; "),
        }
    }

    fn page_transactions(&self, page: &mut String, selection: &Selection) {
        if selection.transactions.is_empty() {
            return;
        }
        let mut shown = selection.transactions.clone();
        shown.sort_unstable();
        let known = |what: &dyn Fn(usize) -> String| shown.iter().any(|one| !what(*one).is_empty());
        let same = self.protection_of_all().is_some();
        let protection = !same && known(&|one| self.protection(one));
        let place = known(&|one| self.transactions[one].place.clone());
        let lane_of = |one: usize| {
            let lane = self.lanes.get(self.transactions[one].lane);
            lane.map_or(String::new(), |lane| harmless(&lane.name))
        };
        // Lanes that are called as their transactions are say nothing new.
        let lanes = shown.iter().any(|one| lane_of(*one) != self.name(*one));
        page.push_str(
            "<section aria-labelledby=\"transactions\">\n<h2 id=\"transactions\">The transactions</h2>\n\
             <div class=\"scroll wide\" tabindex=\"0\" role=\"region\" aria-label=\"The transactions\" style=\"border:0\">\n<table>\n<thead><tr><th \
             scope=\"col\">transaction</th>",
        );
        page.push_str(if lanes { "<th scope=\"col\">session</th>" } else { "" });
        page.push_str(if protection { "<th scope=\"col\">level, concurrency</th>" } else { "" });
        page.push_str(if place { "<th scope=\"col\">in the history</th>" } else { "" });
        page.push_str(
            "<th scope=\"col\">what it did</th><th scope=\"col\">end</th></tr></thead>\n<tbody>\n",
        );
        for one in shown {
            let transaction = &self.transactions[one];
            let _ = write!(
                page,
                "<tr id=\"transaction-{one}\" class=\"t{one}\"><th scope=\"row\">{}</th>",
                esc(&self.name(one))
            );
            if lanes {
                let _ = write!(page, "<td>{}</td>", esc(&lane_of(one)));
            }
            if protection {
                let _ = write!(page, "<td>{}</td>", esc(&self.protection(one)));
            }
            if place {
                let _ = write!(page, "<td>{}</td>", esc(&harmless(&transaction.place)));
            }
            let (end, tone) = match &transaction.end {
                End::Unknown => ("unknown".into(), "warn"),
                End::Committed(None) => ("committed".into(), "fine"),
                End::Committed(Some(at)) => (format!("committed, at {at}"), "fine"),
                End::Aborted => ("aborted".into(), "bad"),
                End::RolledBack => ("rolled back".into(), "warn"),
            };
            let doings = esc(&self.doings(one));
            let _ = writeln!(page, "<td>{doings}</td><td class=\"{tone}\">{end}</td></tr>");
        }
        page.push_str("</tbody>\n</table>\n</div>\n</section>\n");
    }

    fn page_steps(&self, page: &mut String, selection: &Selection) {
        if selection.events.is_empty() {
            return;
        }
        page.push_str("<section aria-labelledby=\"steps\">\n<h2 id=\"steps\">The schedule, step by step</h2>\n<ol class=\"steps\">\n");
        for place in &selection.events {
            let event = &self.events[*place];
            let engine = if event.transaction.is_none() { " class=\"engine\"" } else { "" };
            let _ = writeln!(
                page,
                "<li id=\"event-{place}\"{engine}>{}</li>",
                esc(&self.sentence(event))
            );
        }
        page.push_str("</ol>\n</section>\n");
    }

    fn page_replay(&self, page: &mut String) {
        if self.replay.is_empty() {
            return;
        }
        page.push_str("<section aria-labelledby=\"again\">\n<h2 id=\"again\">See it again</h2>\n");
        let commands: Vec<String> =
            self.replay.iter().map(|command| esc(&harmless(command))).collect();
        let _ = writeln!(page, "<pre><code>{}</code></pre>", commands.join("\n"));
        page.push_str("</section>\n");
    }
}

/// The rules that show what is behind an edge or a transaction while it is pointed at.
fn pointing(selection: &Selection) -> String {
    let mut rules = String::new();
    for (kind, places) in [("e", &selection.edges), ("t", &selection.transactions)] {
        for place in places {
            let at = format!(":is(.{kind}{place}:hover, .{kind}{place}:focus-visible)");
            let _ = writeln!(
                rules,
                "main:has({at}) .detail-{kind}{place} {{ visibility: visible; }}\n\
                 main:has({at}) .idle {{ visibility: hidden; }}\n\
                 main:has({at}) svg .{kind}{place} :is(.line, .node) {{ stroke-width: 4.6px; }}\n\
                 main:has({at}) :is(li, tr).{kind}{place} {{ background: var(--raised); }}"
            );
        }
    }
    rules
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or(String::new(), |first| first.to_uppercase().collect::<String>() + chars.as_str())
}
