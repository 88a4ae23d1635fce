//! Running the binary, and a run to spoil.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub const STREAM: &str = "the quick brown fox jumps over the lazy dog\n";

/// A recipe of 30 steps of a model of a few thousand parameters.
pub const RECIPE: &str = r#"
# Trains in a second.
description = "a test"
seed = 5
[data]
name = "text:TEXT"
tokenizer = "chars"
[model]
preset = "resnet-bk-tiny"
[model.backbone]
d_model = 16
n_layers = 1
d_hidden = 32
[model.bk]
heads = 8
[train]
steps = 30
batch = 4
seq = 16
eval_every = 10
eval_batches = 2
checkpoint_every = 10
keep_checkpoints = 3
log_every = 5
[optimizer]
learning_rate = 1e-2
[schedule]
kind = "constant"
warmup_steps = 5
[sample]
prompt = "the"
tokens = 12
"#;

/// What a process said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Fails unless it ended so and said all of `parts`.
    pub fn expect(self, status: i32, parts: &[&str]) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        let all = format!("{}{}", self.out, self.err);
        for part in parts {
            assert!(all.contains(part), "`{part}` is not in: {self:?}");
        }
        assert!(!all.contains("panicked"), "{self:?}");
        self
    }
}

/// A folder with a text and a recipe, gone with the value.
pub struct Corner {
    folder: tempfile::TempDir,
}

impl Corner {
    pub fn new() -> Self {
        Self::with_text(STREAM.repeat(40).as_bytes())
    }

    pub fn with_text(text: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        fs::write(&path, text).unwrap();
        let recipe = RECIPE.replace("TEXT", &path.to_string_lossy());
        fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
        Self { folder }
    }

    /// A corner with a finished run in `run`: a copy of one that is trained once for all tests.
    pub fn trained() -> Self {
        static RUN: OnceLock<PathBuf> = OnceLock::new();
        let template = RUN.get_or_init(|| {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trained");
            if kept.exists() {
                fs::remove_dir_all(&kept).unwrap();
            }
            fs::create_dir_all(&kept).unwrap();
            let corner = Self::new();
            corner.train("run", &[]).expect(0, &[]);
            copy(&corner.path("run"), &kept.join("run"));
            kept.join("run")
        });
        let corner = Self::new();
        copy(template, &corner.path("run"));
        // The recipe in the run names the text of the corner it was made in.
        let text = fs::read_to_string(corner.path("run/recipe.toml")).unwrap();
        let lines = text.lines().map(|line| match line.starts_with("name = ") {
            true => format!("name = \"text:{}\"", corner.path("text.txt").display()),
            false => line.to_string(),
        });
        let text: Vec<String> = lines.collect();
        fs::write(corner.path("run/recipe.toml"), text.join("\n")).unwrap();
        corner
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("KILN_CACHE", self.path("cache"))
            .env_remove("KILN_DATA")
            .env_remove("KILN_WORKSPACE")
            .stdin(Stdio::null());
        command
    }

    pub fn kiln(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().unwrap();
        Said {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Trains the corner's recipe into `out`.
    pub fn train(&self, out: &str, more: &[&str]) -> Said {
        let recipe = self.text("recipe.toml");
        let mut args = vec!["train", recipe.as_str(), "--out", out];
        args.extend(more);
        self.kiln(&args)
    }

    /// A dry run of the corner's recipe with changes.
    pub fn dry_run(&self, sets: &[&str]) -> Said {
        let recipe = self.text("recipe.toml");
        let mut args = vec!["train", recipe.as_str(), "--dry-run"];
        for set in sets {
            args.extend(["--set", set]);
        }
        self.kiln(&args)
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
}

/// Flips one bit of a file, `back` bytes before its end.
pub fn flip(path: &Path, back: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - back;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

pub fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
