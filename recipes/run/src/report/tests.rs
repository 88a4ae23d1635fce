use proptest::prelude::*;

use super::*;

/// Checks that tags are balanced and properly nested, and that every attribute is quoted. Void
/// elements close themselves.
fn assert_well_formed(page: &str) {
    let body = page.split_once("</style>").unwrap().1;
    let mut open = vec!["html", "head"];
    for (index, part) in body.split('<').enumerate().skip(1) {
        let (tag, text) = part
            .split_once('>')
            .unwrap_or_else(|| panic!("part {index} is not closed: {part}"));
        assert!(!text.contains('>'), "a bare > in: {text}");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in: {tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of turn");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    let text_only = body
        .replace("&amp;", "")
        .replace("&lt;", "")
        .replace("&gt;", "")
        .replace("&quot;", "")
        .replace("&#39;", "");
    assert!(!text_only.contains('&'), "a bare &");
    assert!(
        !body.contains("NaN") && !body.contains("inf\""),
        "a number that is none"
    );
}

fn page_of(chart: Chart) -> String {
    let page = Report {
        title: "t".into(),
        charts: vec![chart],
        ..Report::default()
    }
    .render();
    assert_well_formed(&page);
    page
}

fn curve(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series::new(name, points)
}

#[test]
fn everything_is_escaped() {
    let evil = "<script>alert(\"1\")</script> & 'x'".to_string();
    let pair = vec![(evil.clone(), evil.clone())];
    let sample = Sample {
        title: evil.clone(),
        prompt: evil.clone(),
        text: evil.clone(),
    };
    let report = Report {
        title: evil.clone(),
        subtitle: evil.clone(),
        highlights: pair.clone(),
        facts: pair,
        charts: vec![Chart {
            title: evil.clone(),
            x_label: evil.clone(),
            y_label: evil.clone(),
            series: vec![
                curve(&evil, vec![(0.0, 1.0), (1.0, 2.0)]),
                curve(&evil, vec![(0.0, 1.0)]).style(Style::Points),
            ],
            references: vec![(evil.clone(), 1.5), (evil.clone(), 99.0)],
            verticals: [0.5, 7.0]
                .map(|at| Vertical {
                    name: evil.clone(),
                    at,
                    color: None,
                })
                .to_vec(),
            log_x: false,
            log_y: false,
            plain_legend: false,
        }],
        tables: vec![Table {
            title: evil.clone(),
            columns: vec![evil.clone()],
            rows: vec![vec![evil.clone(), "1".into()]],
            best: Some(0),
            bold: vec![(0, 0)],
            note: evil.clone(),
        }],
        samples: vec![sample.clone()],
        sections: vec![Section {
            title: evil.clone(),
            parts: vec![
                Part::Text(evil.clone()),
                Part::HeatMap(HeatMap {
                    title: evil.clone(),
                    axes: evil.clone(),
                    columns: vec![evil.clone()],
                    rows: vec![(evil.clone(), vec![Some(f64::NAN), Some(1.0), None])],
                    range: (1.0, 1.0),
                    note: evil.clone(),
                }),
                Part::Folded(Table {
                    title: evil.clone(),
                    ..Table::default()
                }),
                Part::Samples(vec![sample]),
                Part::Source {
                    title: evil.clone(),
                    text: evil,
                },
            ],
        }],
    };
    let page = report.render();
    assert_well_formed(&page);
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "the page asks for nothing"
    );
}

#[test]
fn an_empty_report_is_a_page() {
    let page = Report::default().render();
    assert_well_formed(&page);
    assert!(!page.contains("<section>") && !page.contains("<dl"));
}

#[test]
fn charts_without_data_say_so() {
    assert!(page_of(Chart::default()).contains(">no data</text>"));
    let gaps = vec![(0.0, f64::NAN), (f64::NAN, 1.0), (1.0, f64::INFINITY)];
    let page = page_of(Chart {
        series: vec![curve("a", gaps), curve("b", vec![])],
        ..Chart::default()
    });
    assert!(page.contains(">no data</text>") && page.contains("a: no data. b: no data."));
    let page = page_of(Chart {
        series: vec![curve("a", vec![(0.0, 1.0), (-1.0, 2.0)])],
        log_x: true,
        ..Chart::default()
    });
    assert!(page.contains(">no data</text>"));
}

#[test]
fn a_single_point_is_a_dot() {
    for (log_x, point) in [
        (false, (0.0, 0.0)),
        (false, (5.0, -3.0)),
        (true, (100.0, 2.0)),
    ] {
        let page = page_of(Chart {
            series: vec![curve("a", vec![point])],
            log_x,
            ..Chart::default()
        });
        assert_eq!(page.matches("<circle class=\"dot\"").count(), 1);
    }
}

#[test]
fn a_gap_breaks_the_line() {
    let mut points: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i), f64::from(i % 7))).collect();
    points[20].1 = f64::NAN;
    let page = page_of(Chart {
        series: vec![curve("a", points)],
        ..Chart::default()
    });
    let path = page
        .split("solid\"><path d=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    assert_eq!(path.matches('M').count(), 2);
}

#[test]
fn a_power_law_is_straight_on_two_logarithmic_axes() {
    let points = [
        (10.0, 1e-3),
        (100.0, 1e-2),
        (1000.0, 0.1),
        (1e4, 1.0),
        (1e5, 0.0),
    ];
    let page = page_of(Chart {
        series: vec![curve("a", points.to_vec())],
        references: vec![("zero".into(), 0.0)],
        log_x: true,
        log_y: true,
        ..Chart::default()
    });
    let path = page.split("solid\"><path d=\"").nth(1).unwrap();
    let path = path.split('"').next().unwrap();
    let at: Vec<(f64, f64)> = path
        .split(['M', 'L'])
        .filter_map(|pair| pair.split_once(' '))
        .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
        .collect();
    assert_eq!(at.len(), 4, "zero has no place: {path}");
    let slopes = at
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0));
    let slopes: Vec<f64> = slopes.collect();
    // Pixels are written to a tenth.
    assert!(
        slopes
            .iter()
            .all(|slope| (slope - slopes[0]).abs() < 2e-3 && *slope < 0.0),
        "{slopes:?}"
    );
    assert!(
        page.contains(">0.01</text>") && page.contains("The reference zero (0)"),
        "{page}"
    );
}

#[test]
fn what_is_left_out_is_told() {
    let mut points: Vec<(f64, f64)> = (0..200)
        .map(|i| (f64::from(i), 2.0 - f64::from(i) / 200.0))
        .collect();
    points[0].1 = 1e9;
    let references = vec![("uniform".to_string(), 50.0), ("target".to_string(), 1.2)];
    let page = page_of(Chart {
        series: vec![curve("loss", points)],
        references,
        ..Chart::default()
    });
    assert!(page.contains("loss: 1 point outside of the frame, as far as 1.00G at 0."));
    assert!(page.contains("The reference uniform (50.00) lies outside of the frame."));
    assert!(page.contains(">target</text>") && !page.contains("reference target"));
}

#[test]
fn many_points_stay_a_small_page() {
    let points = (0..200_000)
        .map(|i| (f64::from(i), f64::from(i).sin()))
        .collect();
    let page = page_of(Chart {
        series: vec![curve("a", points)],
        ..Chart::default()
    });
    assert!(page.len() < 60_000, "{} bytes", page.len());
}

#[test]
fn columns_of_numbers_stand_to_the_right() {
    let rows = vec![
        vec!["a".into(), "1.5 ± 0.1".into(), "x".into()],
        vec!["b".into(), "–".into(), "2".into()],
    ];
    let table = Table {
        columns: ["m", "loss", "kind"].map(String::from).to_vec(),
        rows,
        ..Table::default()
    };
    assert_eq!(
        [0, 1, 2].map(|column| table.is_numeric(column)),
        [false, true, false]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any floats at all: infinities, denormals, one value many times over.
    #[test]
    fn any_numbers_make_a_page(
        points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..12),
        reference in any::<f64>(),
        log_x in any::<bool>(),
        log_y in any::<bool>(),
    ) {
        let references = vec![("r".to_string(), reference)];
        let band: Vec<_> = points.iter().map(|(x, y)| (*x, *y, reference)).collect();
        let series = vec![curve("a", points.clone()).mark(9).band(band), curve("b", points).style(Style::Points)];
        page_of(Chart { series, references, log_x, log_y, ..Chart::default() });
    }

    #[test]
    fn narrow_ranges_make_a_page(base in -1e9f64..1e9, exponent in -320i32..0, log_x in any::<bool>(), log_y in any::<bool>()) {
        let points = (0..5).map(|i| (base.abs() + f64::from(i) * 10f64.powi(exponent), base)).collect();
        page_of(Chart { series: vec![curve("a", points)], log_x, log_y, ..Chart::default() });
    }
}

/// Ids of charts in sections go on where the page's own end; marks, dashes and bands are drawn; what scrolls can be reached.
#[test]
fn sections_have_charts_tables_and_maps() {
    let points: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), f64::from(i % 5))).collect();
    let band = points.iter().map(|(x, y)| (*x, y - 0.5, y + 0.5)).collect();
    let chart = Chart {
        series: vec![
            curve("a", points.clone()).mark(1).band(band),
            curve("b", points).mark(2),
        ],
        plain_legend: true,
        ..Chart::default()
    };
    let table = Table {
        title: "results".into(),
        columns: vec!["arm".into(), "loss".into()],
        rows: vec![vec!["a".into(), "1.5".into()]],
        bold: vec![(0, 1)],
        ..Table::default()
    };
    let map = HeatMap {
        rows: vec![("a".into(), vec![Some(0.25), None])],
        columns: vec!["64".into(), "256".into()],
        range: (0.0, 0.5),
        ..HeatMap::default()
    };
    let page = Report {
        charts: vec![chart.clone()],
        sections: vec![
            Section {
                title: "first".into(),
                parts: vec![Part::Chart(chart.clone()), Part::Table(table)],
            },
            Section {
                title: "second".into(),
                parts: vec![Part::Chart(chart), Part::HeatMap(map)],
            },
            Section::default(),
        ],
        ..Report::default()
    }
    .render();
    assert_well_formed(&page);
    for (text, count) in [
        ("id=\"c0\"", 1),
        ("id=\"c1\"", 1),
        ("id=\"c2\"", 1),
        ("<path class=\"band s1\"", 3),
        ("class=\"s2 solid dash2\"", 3),
        ("<td class=\"number\"><strong>1.5</strong></td>", 1),
        ("style=\"--v:50%\">0.250</td>", 1),
        ("<section>", 3),
    ] {
        assert_eq!(page.matches(text).count(), count, "{text}");
    }
    let seen = page.matches("<path class=\"mark\" transform=").count();
    assert!((6 * 9..6 * 12).contains(&seen), "{seen}");
    assert_eq!(
        page.matches("class=\"scroll\"").count(),
        page.matches("class=\"scroll\" tabindex=\"0\"").count()
    );
}

/// Names of lines that are near to each other stand in rows of their own, and one at the right end stands left of its line.
#[test]
fn vertical_lines_are_named_and_do_not_lie_on_each_other() {
    let line = |name: &str, at: f64, color: Option<usize>| Vertical {
        name: name.into(),
        at,
        color,
    };
    let page = page_of(Chart {
        series: vec![curve("a", vec![(1.0, 1.0), (1000.0, 2.0)])],
        log_x: true,
        verticals: vec![
            line("first from 30", 30.0, Some(0)),
            line("second from 32", 32.0, Some(9)),
            line("third from 990", 990.0, None),
            line("beyond", 5000.0, None),
        ],
        ..Chart::default()
    });
    assert_eq!(page.matches("<path class=\"vertical ").count(), 3, "{page}");
    assert!(page.contains("<path class=\"vertical s1\""), "{page}");
    let row = |name: &str| {
        let (before, _) = page.split_once(&format!(">{name}</text>")).unwrap();
        let (_, text) = before.rsplit_once("<text ").unwrap();
        let y = text.split(" y=\"").nth(1).unwrap();
        (y.trim_end_matches('"').to_string(), text.contains(" end"))
    };
    assert_eq!(row("first from 30"), ("40.0".into(), false));
    assert_eq!(row("second from 32"), ("56.0".into(), false));
    assert_eq!(row("third from 990"), ("40.0".into(), true));
    assert!(
        page.contains("beyond (5.00k) lies outside of the frame."),
        "{page}"
    );
    assert!(
        page.contains("first from 30."),
        "the summary names them: {page}"
    );
}
