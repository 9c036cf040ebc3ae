//! The graph: transactions on an ellipse in the order of the contradiction, those that are not part
//! of it below, and an arrow for each dependency.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::fmt::Write as _;

use super::{class, esc};
use crate::picture::selection::Selection;
use crate::picture::text::{counted, cut, harmless, shown, width};
use crate::picture::{Edge, End, Picture};

/// Half the height of a node.
const HALF: f64 = 24.0;
/// Pixels along the ellipse from node to node.
const APART: f64 = 150.0;
/// How flat the ellipse is.
const FLAT: f64 = 0.66;
/// Nodes in a row below it.
const ROW_MAX: usize = 6;
/// Pixels around everything.
const MARGIN: f64 = 52.0;

#[derive(Clone, Copy, Debug)]
struct Point {
    x: f64,
    y: f64,
}

impl Point {
    fn towards(self, other: Point, part: f64) -> Point {
        Point { x: self.x + (other.x - self.x) * part, y: self.y + (other.y - self.y) * part }
    }

    fn distance(self, other: Point) -> f64 {
        (self.x - other.x).hypot(self.y - other.y)
    }
}

/// A transaction, or what stands for those that are left out.
#[derive(Clone, Copy, Debug)]
struct Node {
    at: Point,
    /// Half its width.
    half: f64,
}

impl Node {
    fn contains(&self, point: Point) -> bool {
        let room = 5.0;
        (point.x - self.at.x).abs() < self.half + room && (point.y - self.at.y).abs() < HALF + room
    }
}

/// A curve with one control point.
struct Curve {
    from: Point,
    control: Point,
    to: Point,
}

impl Curve {
    fn at(&self, part: f64) -> Point {
        let (first, second) =
            (self.from.towards(self.control, part), self.control.towards(self.to, part));
        first.towards(second, part)
    }

    /// The part of it that lies between two nodes.
    fn between(&self, from: &Node, to: &Node) -> (f64, f64) {
        let parts = || (0..=100).map(|part| f64::from(part) / 100.0);
        let begin = parts().find(|part| !from.contains(self.at(*part))).unwrap_or(0.0);
        let end = parts().rev().find(|part| !to.contains(self.at(*part))).unwrap_or(1.0);
        if begin < end { (begin, end) } else { (0.0, 1.0) }
    }

    /// The same as a path: a curve's part is a curve.
    fn path(&self, begin: f64, end: f64) -> String {
        let (from, to) = (self.at(begin), self.at(end));
        let first = self.from.towards(self.control, begin);
        let second = self.control.towards(self.to, begin);
        let control = first.towards(second, end);
        format!(
            "M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}",
            from.x, from.y, control.x, control.y, to.x, to.y
        )
    }
}

impl Picture {
    /// An edge in a line, for who points at it.
    pub(super) fn edge_title(&self, edge: &Edge) -> String {
        let (from, to) = (self.name(edge.from), self.name(edge.to));
        format!("{}: {from} before {to}, because {}", edge.kind.short(), self.why(edge))
    }

    pub(super) fn graph(&self, page: &mut String, selection: &Selection) {
        let (nodes, gap) = self.nodes(selection);
        let mut body = String::new();
        let mut reach = Reach::default();
        for node in nodes.values().chain(&gap) {
            reach.node(node);
        }
        self.gap(&mut body, selection, &nodes, gap.as_ref());
        let mut beside: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for place in &selection.edges {
            let edge = &self.edges[*place];
            let (Some(from), Some(to)) = (nodes.get(&edge.from), nodes.get(&edge.to)) else {
                continue;
            };
            let nth = beside.entry((edge.from, edge.to)).or_default();
            self.arrow(&mut body, &mut reach, *place, (from, to), *nth, selection);
            *nth += 1;
        }
        for (transaction, node) in &nodes {
            self.node(&mut body, *transaction, node);
        }
        let (left, top) = (reach.left - MARGIN / 2.0, reach.top - MARGIN / 2.0);
        let width = reach.right - reach.left + MARGIN;
        let height = reach.bottom - reach.top + MARGIN;
        let _ = writeln!(
            page,
            "<svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"{left:.0} {top:.0} {width:.0} \
             {height:.0}\" role=\"group\" aria-labelledby=\"graph-title\"><title \
             id=\"graph-title\">Which transaction comes before which; the same is told in \
             words</title>\n{body}</svg>"
        );
    }

    /// Where everything is.
    fn nodes(&self, selection: &Selection) -> (BTreeMap<usize, Node>, Option<Node>) {
        let half = |transaction: usize| {
            // Half of what a character takes: the name is set larger.
            let name = width(&self.name(transaction)) as f64 * 5.1;
            let below = width(&self.below(transaction)) as f64 * 3.5;
            (name.max(below) + 12.0).max(38.0)
        };
        let mut nodes = BTreeMap::new();
        let mut gap = None;
        // Without a cycle those with edges, which come first, lie there.
        let touched = |transaction: &&usize| {
            let edges = selection.edges.iter().map(|edge| &self.edges[*edge]);
            edges.clone().any(|edge| edge.from == **transaction || edge.to == **transaction)
        };
        let around = match selection.in_cycle {
            0 => selection.transactions.iter().take_while(touched).count(),
            in_cycle => in_cycle,
        };
        let on_ellipse = around + usize::from(selection.gap.is_some());
        let (wide, high) = radii(on_ellipse);
        let mut place = 0;
        let mut spot = || {
            // Two lie side by side; of more the first is at the top.
            let begin = if on_ellipse == 2 { 0.5 } else { 0.75 };
            let angle = TAU * (begin + place as f64 / on_ellipse as f64);
            place += 1;
            Point { x: wide * angle.cos(), y: high * angle.sin() }
        };
        for (number, transaction) in selection.transactions[..around].iter().enumerate() {
            if selection.gap.is_some_and(|(first, _)| first == number) {
                gap = Some(Node { at: spot(), half: 62.0 });
            }
            nodes.insert(*transaction, Node { at: spot(), half: half(*transaction) });
        }
        let others = &selection.transactions[around..];
        let below = if on_ellipse == 0 { 0.0 } else { high + 2.0 * HALF + 78.0 };
        for (number, transaction) in others.iter().enumerate() {
            let in_row = others.len().min(ROW_MAX);
            let (row, column) = (number / in_row, number % in_row);
            let x = (column as f64 - (in_row as f64 - 1.0) / 2.0) * 200.0;
            let at = Point { x, y: below + row as f64 * 120.0 };
            nodes.insert(*transaction, Node { at, half: half(*transaction) });
        }
        (nodes, gap)
    }

    /// The second line of a node.
    fn below(&self, transaction: usize) -> String {
        let known = self.transactions.get(transaction);
        let lane = known.and_then(|known| self.lanes.get(known.lane));
        // A lane of its own is called as it is.
        let lane = lane.map_or(String::new(), |lane| harmless(&lane.name));
        if lane == self.name(transaction) { String::new() } else { cut(&lane, 18, "…") }
    }

    fn node(&self, body: &mut String, transaction: usize, node: &Node) {
        let end = self.transactions.get(transaction).map_or(&End::Unknown, |known| &known.end);
        let (tone, end) = match end {
            End::Committed(_) => ("", "committed"),
            End::Aborted => (" aborted", "aborted"),
            End::RolledBack => (" aborted", "rolled back"),
            End::Unknown => (" unknown", "outcome unknown"),
        };
        let label = format!("{}, {end}: {}", self.name(transaction), self.doings(transaction));
        let below = self.below(transaction);
        let (x, y) = (node.at.x, node.at.y);
        let (name_y, name) =
            (if below.is_empty() { y + 5.0 } else { y - 2.0 }, self.name(transaction));
        let _ = writeln!(
            body,
            "<a href=\"#transaction-{transaction}\" class=\"t{transaction}\" aria-label=\"{label}\">\
             <title>{label}</title><rect class=\"node{tone}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
             height=\"{:.1}\" rx=\"12\"/><text x=\"{x:.1}\" y=\"{name_y:.1}\" text-anchor=\"middle\" \
             font-size=\"15\" font-weight=\"600\">{}</text><text class=\"soft\" x=\"{x:.1}\" \
             y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\">{}</text></a>",
            x - node.half,
            y - HALF,
            2.0 * node.half,
            2.0 * HALF,
            esc(&name),
            y + 14.0,
            esc(&below),
            label = esc(&label),
        );
    }

    /// What stands for the transactions that are left out.
    fn gap(
        &self,
        body: &mut String,
        selection: &Selection,
        nodes: &BTreeMap<usize, Node>,
        gap: Option<&Node>,
    ) {
        let (Some((first, hidden)), Some(gap)) = (selection.gap, gap) else { return };
        let around = [first - 1, first].map(|place| selection.transactions.get(place));
        for node in around.into_iter().flatten().filter_map(|one| nodes.get(one)) {
            let _ = writeln!(
                body,
                "<line class=\"rule\" stroke-dasharray=\"2 5\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" \
                 y2=\"{:.1}\"/>",
                gap.at.x, gap.at.y, node.at.x, node.at.y
            );
        }
        let _ = writeln!(
            body,
            "<rect class=\"node gap\" style=\"fill:var(--paper)\" x=\"{:.1}\" y=\"{:.1}\" \
             width=\"{:.1}\" height=\"{:.1}\" rx=\"12\"/><text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\" font-size=\"13\">… {} more …</text>",
            gap.at.x - gap.half,
            gap.at.y - HALF,
            2.0 * gap.half,
            2.0 * HALF,
            gap.at.x,
            gap.at.y + 4.5,
            counted(hidden as u64)
        );
    }

    fn arrow(
        &self,
        body: &mut String,
        reach: &mut Reach,
        place: usize,
        (from, to): (&Node, &Node),
        nth: u32,
        selection: &Selection,
    ) {
        let edge = &self.edges[place];
        let curve = curve(from, to, nth);
        let (begin, end) = curve.between(from, to);
        let tip = curve.at(end);
        let length = curve.from.distance(curve.to).max(1.0);
        let back = curve.at((end - 11.0 / length).max(begin));
        let size = tip.distance(back).max(0.1);
        let (dx, dy) = ((tip.x - back.x) / size, (tip.y - back.y) / size);
        let base = Point { x: tip.x - dx * 12.0, y: tip.y - dy * 12.0 };
        // The line ends within the head, so that a broad one does not stick out of it.
        let path = curve.path(begin, (end - 8.0 / length).max(begin));
        let middle = curve.at((begin + end) / 2.0);
        let chord = curve.from.towards(curve.to, 0.5);
        let away = middle.distance(chord).max(0.1);
        let (nx, ny) = ((middle.x - chord.x) / away, (middle.y - chord.y) / away);
        let at = Point { x: middle.x + nx * 9.0, y: middle.y + ny * 13.0 + 4.0 };
        let anchor = match nx {
            nx if nx > 0.5 => "start",
            nx if nx < -0.5 => "end",
            _ => "middle",
        };
        let key = edge.key.as_deref().or_else(|| self.key_of(edge)).map(|key| shown(key, 14));
        let label = match key {
            Some(key) => format!("{} · {key}", edge.kind.short()),
            None => edge.kind.short().to_owned(),
        };
        reach.label(at, anchor, width(&label) as f64 * 6.9);
        let aside =
            if self.cycle.is_empty() || self.cycle.contains(&place) { "" } else { " aside" };
        let _ = selection;
        let _ = writeln!(
            body,
            "<a href=\"#edge-{place}\" class=\"edge {} e{place}{aside}\" \
             aria-label=\"{title}\"><title>{title}</title><path class=\"hit\" d=\"{path}\"/><path \
             class=\"line\" d=\"{path}\"/><path class=\"tip\" d=\"M{:.1} {:.1}L{:.1} {:.1}L{:.1} \
             {:.1}Z\"/><text class=\"halo\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text></a>",
            class(edge.kind),
            tip.x,
            tip.y,
            base.x - dy * 5.5,
            base.y + dx * 5.5,
            base.x + dy * 5.5,
            base.y - dx * 5.5,
            at.x,
            at.y,
            esc(&label),
            title = esc(&self.edge_title(edge)),
        );
    }

    fn key_of(&self, edge: &Edge) -> Option<&[u8]> {
        let key = |event: Option<usize>| event.and_then(|event| self.events.get(event)?.key());
        key(edge.to_event).or_else(|| key(edge.from_event))
    }
}

/// The half axes of the ellipse that so many nodes lie on.
fn radii(nodes: usize) -> (f64, f64) {
    match nodes {
        0 | 1 => (0.0, 0.0),
        2 => (190.0, 0.0),
        3 => (170.0, 112.0),
        4 => (210.0, 135.0),
        _ => {
            let wide = (nodes as f64 * APART / TAU / 0.84).max(230.0);
            (wide, wide * FLAT)
        }
    }
}

/// From one node to another, bowed to the left of its way, the more the more there are beside it.
fn curve(from: &Node, to: &Node, nth: u32) -> Curve {
    let (start, end) = (from.at, to.at);
    let length = start.distance(end).max(1.0);
    let bow = (0.13 * length).clamp(22.0, 60.0) + 44.0 * f64::from(nth);
    let (dx, dy) = ((end.x - start.x) / length, (end.y - start.y) / length);
    let middle = start.towards(end, 0.5);
    // Clockwise around the ellipse, left is outside.
    let control = Point { x: middle.x + dy * bow * 2.0, y: middle.y - dx * bow * 2.0 };
    Curve { from: start, control, to: end }
}

/// How far the drawing reaches.
#[derive(Default)]
struct Reach {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Reach {
    fn point(&mut self, x: f64, y: f64) {
        self.left = self.left.min(x);
        self.right = self.right.max(x);
        self.top = self.top.min(y);
        self.bottom = self.bottom.max(y);
    }

    fn node(&mut self, node: &Node) {
        self.point(node.at.x - node.half, node.at.y - HALF);
        self.point(node.at.x + node.half, node.at.y + HALF);
    }

    fn label(&mut self, at: Point, anchor: &str, width: f64) {
        let left = match anchor {
            "start" => at.x,
            "end" => at.x - width,
            _ => at.x - width / 2.0,
        };
        self.point(left, at.y - 12.0);
        self.point(left + width, at.y + 4.0);
    }
}
