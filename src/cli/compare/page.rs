//! The page of a comparison.

use super::analysis::{Analysis, Group, rate, signed};
use super::sheets::sheets;
use crate::cli::chart::{COLOURS, Chart, Mark, Point, Series, html, page, thinned};
use crate::cli::number::short;

/// The whole page.
pub(super) fn whole(title: &str, analysis: &Analysis) -> String {
    let mut body = String::from("<ul class=\"keys\">");
    for (i, group) in analysis.groups.iter().enumerate() {
        let (colour, name) = (i % COLOURS, html(&group.name()));
        body += &format!("<li><span class=\"key b{colour}\"></span>{name}</li>");
    }
    body += "</ul>\n";
    let mut sheets = sheets(analysis).into_iter();
    // The arms and their differences first: what the page is looked at for.
    body += &sheets.by_ref().take(2).map(|sheet| sheet.html()).collect::<String>();
    body += &charts(analysis).iter().filter_map(Chart::html).collect::<String>();
    body += &sheets.map(|sheet| sheet.html()).collect::<String>();
    page(title, &body)
}

fn charts(analysis: &Analysis) -> [Chart; 6] {
    let nats = "nats per token";
    let steps = |title: &str, series: Vec<Series>| Chart {
        title: title.into(),
        unit: nats.into(),
        across: "step".into(),
        series,
        ..Chart::default()
    };
    let validation =
        curves(analysis, |run| run.record.validation.iter().map(|&(step, loss)| (step as f64, loss)).collect());
    let last = validation.iter().flat_map(|series| &series.points).fold(0.0f64, |last, point| last.max(point.x));
    let mut late = validation.clone();
    late.iter_mut().for_each(|series| series.points.retain(|point| point.x >= 0.5 * last));
    [
        differences(analysis),
        by_rate(analysis),
        by_bytes(analysis),
        steps("Validation loss of the best rates", validation),
        steps("The same, second half", late),
        steps("Training loss of the best rates", curves(analysis, |run| run.record.training.clone())),
    ]
}

/// A curve of each run at the best rate of its arm.
fn curves(analysis: &Analysis, points: impl Fn(&super::analysis::Outcome) -> Vec<(f64, f64)>) -> Vec<Series> {
    let of_group = |(colour, group): (usize, &Group)| {
        let named = |run: &super::analysis::Outcome| Series {
            name: format!("{}, seed {}", group.name(), run.seed),
            points: thinned(points(run)),
            colour,
            mark: Mark::Thin,
        };
        group.best().runs.iter().map(named).collect::<Vec<_>>()
    };
    analysis.groups.iter().enumerate().flat_map(of_group).collect()
}

/// Losses beyond this many nats above the best are drawn at that height, or all others would be one line.
const TALLEST: f64 = 1.0;

fn by_rate(analysis: &Analysis) -> Chart {
    let all = || analysis.groups.iter().flat_map(|group| &group.rates);
    let lowest = all().map(|rate| rate.mean).fold(f64::MAX, f64::min);
    let several = all().any(|rate| Some(rate.lr) != all().next().map(|first| first.lr));
    let cut = |x: f64| x.min(lowest + TALLEST);
    let of_group = |(colour, group): (usize, &Group)| {
        let points = group.rates.iter().filter(|one| one.lr > 0.0).map(|one| {
            let losses = one.losses();
            let ends =
                [losses.iter().copied().fold(f64::MAX, f64::min), losses.iter().copied().fold(f64::MIN, f64::max)];
            let above = if one.mean > lowest + TALLEST { ", beyond the chart" } else { "" };
            let note = format!("{} at {}: {:.4} ({} runs{above})", group.name(), rate(one.lr), one.mean, losses.len());
            Point { x: one.lr, y: cut(one.mean), interval: Some(ends.map(cut)), note }
        });
        Series { name: group.name(), points: points.collect(), colour, mark: Mark::DotsOnLine }
    };
    Chart {
        title: "Final loss by learning rate".into(),
        unit: "nats per token, mean and range of the seeds,".into(),
        across: "peak rate".into(),
        log_x: true,
        // One rate alone is in the table.
        series: if several { analysis.groups.iter().enumerate().map(of_group).collect() } else { Vec::new() },
        ..Chart::default()
    }
}

fn by_bytes(analysis: &Analysis) -> Chart {
    let of_group = |(colour, group): (usize, &Group)| {
        let bytes = group.best().runs[0].record.facts.bytes_per_weight?;
        let loss = group.best().mean;
        let note = format!("{}: {} bytes per weight, {loss:.4}", group.name(), short(bytes));
        let points = vec![Point { note, ..Point::at(bytes, loss) }];
        Some(Series { name: group.name(), points, colour, mark: Mark::Dots })
    };
    Chart {
        title: "Final loss by memory".into(),
        unit: "nats per token".into(),
        across: "bytes of weight, residue and optimizer state per weight".into(),
        log_x: true,
        series: analysis.groups.iter().enumerate().filter_map(of_group).collect(),
        ..Chart::default()
    }
}

fn differences(analysis: &Analysis) -> Chart {
    let colour = |name: &str| analysis.groups.iter().position(|group| group.name() == name).unwrap_or(0);
    let of_pair = |(i, pair): (usize, &super::analysis::Pair)| {
        let interval = pair.interval?;
        let name = pair.name();
        let [mean, low, high] = [interval.mean, interval.low, interval.high].map(signed);
        let note = format!("{name} less {}: {mean}, {low} to {high}", pair.to);
        let x = (i + 1) as f64;
        let singles = pair.differences.iter().map(|(seed, difference)| Point {
            note: format!("{name}, seed {seed}: {}", signed(*difference)),
            ..Point::at(x + 0.12, *difference)
        });
        let whole = Point { interval: Some([interval.low, interval.high]), note, ..Point::at(x, interval.mean) };
        let points = [whole].into_iter().chain(singles).collect();
        Some(Series { points, colour: colour(&name), name, mark: Mark::Dots })
    };
    let mut series: Vec<Series> = analysis.pairs.iter().enumerate().filter_map(of_pair).collect();
    if !series.is_empty() {
        // Where there is no difference.
        let points = vec![Point::at(0.5, 0.0), Point::at(analysis.pairs.len() as f64 + 0.5, 0.0)];
        series.insert(0, Series { name: "no difference".into(), points, colour: 8, mark: Mark::Thin });
    }
    Chart {
        title: "Paired differences".into(),
        unit: "nats per token, mean with its 95 % interval, single pairs beside it,".into(),
        across: "row of the table above".into(),
        series,
        ..Chart::default()
    }
}
