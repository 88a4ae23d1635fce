//! The charts of `cost.html`.

use kiln_run::report::{Chart, Series, Vertical};

use crate::{Cost, Figure, crossover};

/// Every figure over length, one chart a batch; those that nobody measured are left out.
pub(super) fn all(costs: &[Cost]) -> Vec<Chart> {
    let batches = costs.first().map_or(&[][..], |cost| &cost.settings.batches);
    let chart = |figure: Figure, batch: usize| {
        let (title, y_label) = match figure {
            Figure::Prefill => ("Prefill", "seconds"),
            Figure::Decode => ("A step of decoding", "seconds"),
            Figure::State => ("State of a sequence", "bytes"),
            Figure::Peak => ("Peak memory", "bytes"),
        };
        let series = |cost: &Cost| {
            let curve = figure.curve(cost, batch);
            let points = curve
                .into_iter()
                .map(|(length, value)| (length as f64, value));
            Series::new(cost.name.clone(), points.collect())
        };
        Chart {
            title: format!("{title}, batch {batch}"),
            x_label: "length, tokens".into(),
            y_label: y_label.into(),
            series: costs.iter().map(series).collect(),
            verticals: verticals(costs, figure, batch),
            log_x: true,
            log_y: true,
            ..Chart::default()
        }
    };
    let drawn = |chart: &Chart| chart.series.iter().any(|series| !series.points.is_empty());
    batches
        .iter()
        .flat_map(|&batch| Figure::ALL.map(|figure| chart(figure, batch)))
        .filter(drawn)
        .collect()
}

/// Where the first model gets cheaper than another, in the other's colour.
fn verticals(costs: &[Cost], figure: Figure, batch: usize) -> Vec<Vertical> {
    let Some((first, others)) = costs.split_first() else {
        return Vec::new();
    };
    let own = figure.curve(first, batch);
    let line = |(place, other): (usize, &Cost)| {
        let at = crossover(&own, &figure.curve(other, batch)).place()?;
        Some(Vertical {
            name: format!("less than {} from {at:.0} on", other.name),
            at,
            color: Some(place + 1),
        })
    };
    others.iter().enumerate().filter_map(line).collect()
}
