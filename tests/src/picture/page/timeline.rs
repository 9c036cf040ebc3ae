//! The lanes: a column each, a row for every event, time going down.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{class, esc};
use crate::picture::selection::{Selection, ends};
use crate::picture::text::{cut, harmless, width};
use crate::picture::{Edge, EdgeKind, Event, Operation, Outcome, Picture};

/// Pixels from row to row.
const ROW: f64 = 32.0;
/// Pixels above the first row.
const HEAD: f64 = 46.0;
/// Pixels for the numbers of the events.
const NUMBERS: f64 = 46.0;
/// Pixels more where the events have times.
const TIMES: f64 = 66.0;
/// Pixels that a character of a label takes.
const CHAR: f64 = 7.55;
/// Pixels from the left of a lane to its life line, and from there to its labels.
const INDENT: f64 = 16.0;
/// Pixels that the lanes fill together where they need less, and those that one gets at most.
const FILLED: f64 = 1000.0;
const LANE_MAX: f64 = 400.0;

struct Layout {
    /// The middle of each lane's life line.
    x: BTreeMap<usize, f64>,
    /// The row of each event.
    row: BTreeMap<usize, usize>,
    width: f64,
    height: f64,
    /// Characters of each lane's labels.
    label_max: BTreeMap<usize, usize>,
}

impl Layout {
    /// A label as far as there is room for it.
    fn fit(&self, lane: Option<usize>, label: &str) -> String {
        let max = lane.and_then(|lane| self.label_max.get(&lane)).copied();
        cut(label, max.unwrap_or(20), "…")
    }

    fn y(&self, event: usize) -> f64 {
        let row = self.row.get(&event).copied().unwrap_or(0);
        HEAD + ROW * (row as f64 + 0.5)
    }
}

impl Picture {
    pub(super) fn timeline(&self, page: &mut String, selection: &Selection) {
        let layout = self.layout(selection);
        let (width, height) = (layout.width, layout.height);
        let _ = writeln!(
            page,
            "<svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             role=\"group\" aria-labelledby=\"lanes-title\"><title id=\"lanes-title\">What each \
             session did, in order; the same is told step by step below</title>"
        );
        self.heads(page, selection, &layout);
        self.rows(page, selection, &layout);
        self.lives(page, selection, &layout);
        for (order, place) in selection.edges.iter().enumerate() {
            self.timeline_edge(page, *place, order, &layout);
        }
        for place in &selection.events {
            self.mark(page, *place, &layout);
        }
        page.push_str("</svg>\n");
    }

    fn layout(&self, selection: &Selection) -> Layout {
        let count = selection.lanes.len();
        let narrowest = match count {
            0..=2 => 46,
            3..=4 => 32,
            5..=7 => 25,
            _ => 19,
        };
        let has_times = selection.events.iter().any(|event| self.events[*event].at_ns.is_some());
        let mut left = NUMBERS + if has_times { TIMES } else { 0.0 };
        let mut widths = Vec::new();
        for lane in &selection.lanes {
            let of_lane = |event: &&usize| self.lane_of(&self.events[**event]) == Some(*lane);
            let longest = selection
                .events
                .iter()
                .filter(of_lane)
                .map(|event| width(&self.timeline_label(&self.events[*event])).min(narrowest))
                .max();
            let name = self.lanes.get(*lane).map_or(0, |lane| width(&harmless(&lane.name)));
            let chars = longest.unwrap_or(0).max(name.min(narrowest)).max(12);
            widths.push(2.0 * INDENT + chars as f64 * CHAR + 22.0);
        }
        let spare = FILLED - left - widths.iter().sum::<f64>();
        let more = (spare / count.max(1) as f64).max(0.0);
        let (mut x, mut label_max) = (BTreeMap::new(), BTreeMap::new());
        for (lane, width) in selection.lanes.iter().zip(widths) {
            x.insert(*lane, left + INDENT);
            let width = (width + more).min(LANE_MAX).max(width);
            label_max.insert(*lane, ((width - 2.0 * INDENT - 14.0) / CHAR) as usize);
            left += width;
        }
        let row = selection.events.iter().enumerate().map(|(row, event)| (*event, row)).collect();
        let height = HEAD + ROW * selection.events.len() as f64 + 8.0;
        Layout { x, row, width: left.max(320.0), height, label_max }
    }

    fn lane_of(&self, event: &Event) -> Option<usize> {
        let known = event.transaction.and_then(|one| self.transactions.get(one));
        known.map(|known| known.lane)
    }

    /// An event's label: the transaction's name where it begins.
    fn timeline_label(&self, event: &Event) -> String {
        match (&event.operation, event.transaction) {
            (Operation::Begin, Some(transaction)) => {
                let protection = match self.protection_of_all() {
                    Some(_) => String::new(),
                    None => self.protection(transaction),
                };
                let between = if protection.is_empty() { " begins" } else { " · " };
                format!("{}{between}{protection}", self.name(transaction))
            }
            _ => self.label(event),
        }
    }

    fn heads(&self, page: &mut String, selection: &Selection, layout: &Layout) {
        for lane in &selection.lanes {
            let name = self.lanes.get(*lane).map_or(String::new(), |lane| harmless(&lane.name));
            let x = layout.x.get(lane).copied().unwrap_or(0.0) - 6.0;
            let _ = writeln!(
                page,
                "<text x=\"{x:.1}\" y=\"22\" font-size=\"14\" font-weight=\"600\">{}</text>",
                esc(&layout.fit(Some(*lane), &name))
            );
        }
        let _ = writeln!(
            page,
            "<line class=\"rule\" x1=\"0\" x2=\"{:.0}\" y1=\"35\" y2=\"35\"/>",
            layout.width
        );
    }

    fn rows(&self, page: &mut String, selection: &Selection, layout: &Layout) {
        for (number, place) in selection.events.iter().enumerate() {
            let event = &self.events[*place];
            let y = layout.y(*place);
            let _ = write!(
                page,
                "<g><title>{}</title><rect class=\"row\" x=\"0\" y=\"{:.1}\" width=\"{:.0}\" \
                 height=\"{ROW}\"/><text class=\"soft\" x=\"26\" y=\"{:.1}\" text-anchor=\"end\" \
                 font-size=\"11\">{}</text>",
                esc(&self.sentence(event)),
                y - ROW / 2.0,
                layout.width,
                y + 4.0,
                number + 1
            );
            if let Some(at) = event.at_ns {
                let _ = write!(
                    page,
                    "<text class=\"soft\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" \
                     font-size=\"11\">{}</text>",
                    NUMBERS + TIMES - 18.0,
                    y + 4.0,
                    time(at)
                );
            }
            if event.transaction.is_none() {
                let _ = write!(
                    page,
                    "<line class=\"rule\" x1=\"{NUMBERS}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
                     stroke-dasharray=\"2 5\"/><text class=\"soft halo\" x=\"{:.0}\" y=\"{:.1}\" \
                     text-anchor=\"end\" font-size=\"11\">the engine decides</text>",
                    layout.width,
                    layout.width - 8.0,
                    y + 4.0
                );
            }
            page.push_str("</g>\n");
        }
    }

    /// The stretches between the events of a transaction.
    fn lives(&self, page: &mut String, selection: &Selection, layout: &Layout) {
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for place in &selection.events {
            let event = &self.events[*place];
            let (Some(transaction), Some(x)) = (event.transaction, self.x_of(event, layout)) else {
                continue;
            };
            if let Some(before) = last.insert(transaction, *place) {
                let (from, to) = (layout.y(before), layout.y(*place));
                let waits = matches!(&self.events[before].outcome, Outcome::Waits(_));
                let waits = waits && self.events[before].operation != Operation::Commit
                    || matches!(&self.events[before].outcome, Outcome::Waits(whom) if !whom.is_empty());
                if waits {
                    let _ = writeln!(
                        page,
                        "<line class=\"wait\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\"/>"
                    );
                } else if !ends(&self.events[before]) {
                    let _ = writeln!(
                        page,
                        "<line class=\"life\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\"/>"
                    );
                }
            }
            self.waits_for(page, *place, x, layout);
        }
        // Who is not done when the picture ends goes on beyond it.
        for place in last.values().filter(|place| !ends(&self.events[**place])) {
            if let Some(x) = self.x_of(&self.events[*place], layout) {
                let y = layout.y(*place);
                let _ = writeln!(
                    page,
                    "<line class=\"life over\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\"/>",
                    (y + ROW).min(layout.height)
                );
            }
        }
    }

    /// From who waits to whom it waits for.
    fn waits_for(&self, page: &mut String, place: usize, x: f64, layout: &Layout) {
        let Outcome::Waits(whom) = &self.events[place].outcome else { return };
        let (y, own) = (layout.y(place), self.lane_of(&self.events[place]));
        for one in whom {
            let lane = self.transactions.get(*one).map(|known| known.lane);
            let Some(to) = lane.and_then(|lane| layout.x.get(&lane)) else { continue };
            let side = if *to < x { 1.0 } else { -1.0 };
            let end = to + side * 6.0;
            // The label is to the right.
            let label = layout.fit(own, &self.timeline_label(&self.events[place]));
            let x = if side < 0.0 { x + INDENT + width(&label) as f64 * CHAR + 6.0 } else { x };
            let _ = writeln!(
                page,
                "<path class=\"waits\" d=\"M{x:.1} {y:.1}H{end:.1}\"/><path d=\"M{:.1} {:.1}L{end:.1} \
                 {y:.1}L{:.1} {:.1}\" class=\"waits\" style=\"stroke-dasharray:none\"/>",
                end + side * 6.0,
                y - 4.0,
                end + side * 6.0,
                y + 4.0
            );
        }
    }

    fn x_of(&self, event: &Event, layout: &Layout) -> Option<f64> {
        self.lane_of(event).and_then(|lane| layout.x.get(&lane).copied())
    }

    /// The mark and the label of an event.
    fn mark(&self, page: &mut String, place: usize, layout: &Layout) {
        let event = &self.events[place];
        let Some(x) = self.x_of(event, layout) else { return };
        let y = layout.y(place);
        let who = event.transaction.unwrap_or_default();
        let _ = write!(page, "<g class=\"t{who}\"><title>{}</title>", esc(&self.sentence(event)));
        let tone = match (&event.outcome, &event.operation) {
            (Outcome::Refused { .. }, _) => {
                cross(page, x, y);
                " refused"
            }
            (Outcome::Waits(whom), operation) => {
                dot(page, x, y, 4.5, "begin");
                let round = *operation == Operation::Commit && whom.is_empty();
                if round { "" } else { " warned" }
            }
            (_, Operation::Begin) => {
                dot(page, x, y, 4.0, "begin");
                ""
            }
            (_, Operation::Commit) => {
                dot(page, x, y, 7.5, "commit");
                let _ = write!(
                    page,
                    "<path class=\"tick\" d=\"M{:.1} {y:.1}l2.6 2.8l4.8 -5.6\"/>",
                    x - 3.6
                );
                " committed"
            }
            (_, Operation::Rollback) => {
                cross(page, x, y);
                " warned"
            }
            (_, Operation::Read { .. } | Operation::Scan { .. } | Operation::LockRange { .. }) => {
                dot(page, x, y, 5.0, "read");
                ""
            }
            _ => {
                dot(page, x, y, 5.0, "write");
                ""
            }
        };
        let bold = if event.operation == Operation::Begin { " font-weight=\"600\"" } else { "" };
        let _ = writeln!(
            page,
            "<text class=\"mono halo{tone}\"{bold} x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            x + INDENT,
            y + 4.3,
            esc(&layout.fit(self.lane_of(event), &self.timeline_label(event)))
        );
    }

    /// The last event of whoever comes first.
    fn last_of(&self, edge: &Edge) -> Option<usize> {
        let of = |event: &Event| event.transaction == Some(edge.from);
        edge.from_event.or_else(|| self.events.iter().rposition(of))
    }

    /// The first event of whoever comes after.
    fn first_of(&self, edge: &Edge) -> Option<usize> {
        let of = |event: &Event| event.transaction == Some(edge.to);
        edge.to_event.or_else(|| self.events.iter().position(of))
    }

    /// A dependency, from operation to operation.
    fn timeline_edge(&self, page: &mut String, place: usize, order: usize, layout: &Layout) {
        let edge = &self.edges[place];
        let at = |event: Option<usize>| {
            let event = event.filter(|event| layout.row.contains_key(event))?;
            Some((self.x_of(&self.events[event], layout)?, layout.y(event)))
        };
        let (from, to) = match edge.kind {
            EdgeKind::Process | EdgeKind::RealTime => (self.last_of(edge), self.first_of(edge)),
            _ => (edge.from_event, edge.to_event),
        };
        let (Some((x1, y1)), Some((x2, y2))) = (at(from), at(to)) else { return };
        let path = path((x1, y1), (x2, y2), order);
        let (end, angle) = path.tip;
        let _ = writeln!(
            page,
            "<a href=\"#edge-{place}\" class=\"edge {} e{place}\" aria-label=\"{label}\"><title>{label}\
             </title><path class=\"line\" d=\"{line}\"/><path class=\"tip\" d=\"M0 0l-10 -5v10z\" \
             transform=\"translate({:.1} {:.1}) rotate({angle:.0})\"/><path class=\"hit\" \
             d=\"{line}\"/></a>",
            class(edge.kind),
            end.0,
            end.1,
            line = path.line,
            label = esc(&self.edge_title(edge)),
        );
    }
}

/// A dependency's way from mark to mark.
struct Path {
    line: String,
    /// Where its head points to, and in which direction (degrees).
    tip: ((f64, f64), f64),
}

/// The labels are right of their marks: so a line that leaves or arrives there does so between two
/// rows. Edges beside each other keep apart.
fn path((x1, y1): (f64, f64), (x2, y2): (f64, f64), order: usize) -> Path {
    let down = if y2 >= y1 { 1.0 } else { -1.0 };
    let apart = 5.0 * (order % 4) as f64;
    let reach = ((x2 - x1).abs() * 0.45).max(50.0);
    let left = |x: f64| x - 26.0 - apart;
    // How far it goes along a lane before it leaves it, or after it has come to it.
    let along = down * ((y2 - y1).abs() * 0.6).min(34.0 + apart);
    // Where it begins and ends, and the points that draw it out there.
    let (start, out) = match x1 < x2 {
        true => ((x1 + 4.0, y1 + down * 5.0), (x1 + 14.0, y1 + along)),
        false if x1 == x2 => ((x1 - 6.0, y1), (left(x1), y1 + down * 8.0)),
        false => ((x1 - 6.0, y1), (x1 - reach, y1)),
    };
    let (end, into) = match x1 <= x2 {
        true if x1 == x2 => ((x2 - 7.0, y2), (left(x2), y2 - down * 8.0)),
        true => ((x2 - 8.0, y2), (x2 - reach, y2)),
        false => ((x2 + 5.0, y2 - down * 6.0), (x2 + 16.0, y2 - along)),
    };
    let back = (into.0 - end.0, into.1 - end.1);
    let length = back.0.hypot(back.1).max(1.0);
    let neck = (end.0 + back.0 / length * 8.0, end.1 + back.1 / length * 8.0);
    let line = format!(
        "M{:.1} {:.1}C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
        start.0, start.1, out.0, out.1, into.0, into.1, neck.0, neck.1
    );
    Path { line, tip: (end, (-back.1).atan2(-back.0).to_degrees()) }
}

fn dot(page: &mut String, x: f64, y: f64, radius: f64, class: &str) {
    let _ =
        write!(page, "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>");
}

fn cross(page: &mut String, x: f64, y: f64) {
    let _ = write!(
        page,
        "<path class=\"cross\" d=\"M{:.1} {:.1}l11 11m0 -11l-11 11\"/>",
        x - 5.5,
        y - 5.5
    );
}

/// A time for people: `1.37 µs`.
fn time(ns: u64) -> String {
    let (unit, name) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (1e3, "µs"),
        1_000_000..1_000_000_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    format!("{:.2} {name}", ns as f64 / unit)
}
