//! Who may depend on whom, and on which burn.

use crate::workspace::Crate;

/// Breaks of the import direction and of the pinned burn, read from the manifests.
pub fn check(workspace: &toml::Table, crates: &[Crate], burn: &str) -> Vec<String> {
    let mut problems = vec![];
    let shared = workspace
        .get("workspace")
        .and_then(|w| w.get("dependencies"));
    let pinned = shared.and_then(|shared| version(shared.get("burn")?));
    if pinned != Some(burn) {
        let found = pinned.unwrap_or("no version");
        problems.push(format!(
            "Cargo.toml: burn is `{found}`, the workspace is written for `{burn}`"
        ));
    }
    for krate in crates {
        for (name, value) in dependencies(&krate.manifest) {
            let renamed =
                |value: &'_ toml::Value| value.get("package")?.as_str().map(str::to_owned);
            let package = renamed(value)
                .or_else(|| renamed(shared?.get(name)?))
                .unwrap_or_else(|| name.to_owned());
            let manifest = krate.dir.join("Cargo.toml");
            if let Some(other) = crates.iter().find(|other| other.name == package)
                && !allowed(krate.layer).contains(&other.layer)
            {
                problems.push(format!(
                    "{}: {} may not depend on {} ({})",
                    manifest.display(),
                    krate.layer,
                    other.name,
                    other.layer
                ));
            }
            if package == "burn" && value.get("workspace").is_none() {
                problems.push(format!(
                    "{}: write `burn.workspace = true`",
                    manifest.display()
                ));
            }
        }
    }
    problems
}

/// The layers a layer's crates may depend on.
fn allowed(layer: &str) -> &'static [&'static str] {
    match layer {
        "backends" => &["backends"],
        "models" => &["models", "backends"],
        "datasets" => &["datasets"],
        "recipes" => &["recipes", "datasets", "models", "backends"],
        _ => &[],
    }
}

/// All dependencies of a manifest: ordinary, for tests, for build scripts, and for single platforms.
fn dependencies(manifest: &toml::Table) -> Vec<(&str, &toml::Value)> {
    let platforms = manifest.get("target").and_then(|target| target.as_table());
    let platforms = platforms.into_iter().flat_map(|table| table.values());
    let tables = std::iter::once(manifest).chain(platforms.filter_map(|value| value.as_table()));
    tables
        .flat_map(|table| {
            ["dependencies", "dev-dependencies", "build-dependencies"].map(|kind| table.get(kind))
        })
        .flatten()
        .filter_map(|value| value.as_table())
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
        .collect()
}

fn version(dependency: &toml::Value) -> Option<&str> {
    dependency
        .as_str()
        .or_else(|| dependency.get("version")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "[workspace.dependencies]\nburn = { version = '=0.22.1' }\n";

    fn krate(name: &str, layer: &'static str, manifest: &str) -> Crate {
        let dir = format!("{layer}/{name}").into();
        Crate {
            name: name.into(),
            layer,
            dir,
            manifest: manifest.parse().unwrap(),
        }
    }

    fn check(workspace: &str, crates: &[Crate]) -> Vec<String> {
        super::check(&workspace.parse().unwrap(), crates, "=0.22.1")
    }

    #[test]
    fn downward_imports_pass() {
        let crates = [
            krate("op", "backends", "[dependencies]\nburn.workspace = true"),
            krate("net", "models", "[dependencies]\nop.workspace = true"),
            krate("text", "datasets", "[dependencies]\nserde = '1'"),
            krate(
                "kiln",
                "recipes",
                "[dependencies]\nnet.workspace = true\ntext.workspace = true",
            ),
        ];
        assert!(check(WORKSPACE, &crates).is_empty());
    }

    #[test]
    fn every_kind_of_upward_import_is_refused() {
        let crates = [
            krate("op", "backends", "[dev-dependencies]\nnet.workspace = true"),
            krate(
                "net",
                "models",
                "[build-dependencies]\ntext = { path = '../../datasets/text' }",
            ),
            krate(
                "text",
                "datasets",
                "[target.'cfg(unix)'.dependencies]\nx = { package = 'op' }",
            ),
            krate("xtask", "xtask", "[dependencies]\ntext.workspace = true"),
        ];
        assert_eq!(
            check(WORKSPACE, &crates),
            [
                "backends/op/Cargo.toml: backends may not depend on net (models)",
                "models/net/Cargo.toml: models may not depend on text (datasets)",
                "datasets/text/Cargo.toml: datasets may not depend on op (backends)",
                "xtask/xtask/Cargo.toml: xtask may not depend on text (datasets)",
            ]
        );
    }

    #[test]
    fn a_renamed_shared_dependency_is_seen_through() {
        let workspace = format!("{WORKSPACE}short = {{ package = 'net', path = 'models/net' }}\n");
        let crates = [
            krate("op", "backends", "[dependencies]\nshort.workspace = true"),
            krate("net", "models", ""),
        ];
        assert_eq!(check(&workspace, &crates).len(), 1);
    }

    #[test]
    fn burn_is_pinned_in_one_place() {
        let loose = "[workspace.dependencies]\nburn = '0.22'\n";
        let own = krate("op", "backends", "[dependencies]\nburn = '=0.22.1'");
        assert_eq!(
            check(loose, &[own]),
            [
                "Cargo.toml: burn is `0.22`, the workspace is written for `=0.22.1`",
                "backends/op/Cargo.toml: write `burn.workspace = true`",
            ]
        );
        assert!(check("", &[])[0].contains("no version"));
    }
}
