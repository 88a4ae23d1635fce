//! Runs to compress: one of each kind, trained once for all tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::Device;
use kiln_compress::{CompressError, Outcome, Request, compress};
use kiln_run::{Interrupt, Mode, recipe};
use kiln_text::DataEnv;
use kiln_train::{OpenDevice, Run};

const STREAM: &str = "the quick brown fox jumps over the lazy dog and runs away. ";

/// A folder with a text, and a run on it.
pub struct Corner {
    folder: tempfile::TempDir,
}

/// A Transformer and a ResNet-BK that learned their text, with widths that groups of 32 divide.
const MODELS: [(&str, &[&str]); 2] = [
    ("transformer", &["model.preset=transformer-tiny"]),
    ("bk", &["model.preset=resnet-bk-tiny", "model.bk.heads=32"]),
];

const RECIPE: &str = r#"
seed = 3
[data]
tokenizer = "chars"
[model]
preset = "transformer-tiny"
[model.backbone]
d_model = 64
d_hidden = 96
n_layers = 2
[train]
steps = 60
batch = 8
seq = 32
eval_every = 30
eval_batches = 2
checkpoint_every = 60
keep_at = [20]
log_every = 10
[optimizer]
learning_rate = 5e-3
[schedule]
kind = "constant"
warmup_steps = 5
[sample]
prompt = "the"
tokens = 4
"#;

impl Corner {
    /// A corner with the trained run of a kind in `run`.
    pub fn new(kind: &str) -> Self {
        let corner = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        copy(&trained(kind), corner.folder.path());
        corner
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// A recipe on `run` with small calibration, and these stages.
    pub fn recipe(
        &self,
        stages: &[&str],
        sets: &[&str],
    ) -> recipe::Recipe<kiln_compress::CompressRecipe> {
        let stages: Vec<String> = stages
            .iter()
            .map(|stage| format!("[[stage]]\n{stage}\n"))
            .collect();
        let text = format!(
            "from = {:?}\n[calibration]\nwindows = 24\n[measure]\nwindows = 40\ndecode_seconds = 0\n{}",
            self.text("run"),
            stages.join("\n")
        );
        fs::write(self.path("compress.toml"), text).unwrap();
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        recipe::load(self.folder.path(), &self.text("compress.toml"), &sets).unwrap()
    }

    pub fn compress(&self, out: &str, stages: &[&str]) -> Result<Outcome, CompressError> {
        self.start(out, false, stages, &[], Interrupt::none())
    }

    pub fn start(
        &self,
        out: &str,
        resume: bool,
        stages: &[&str],
        sets: &[&str],
        interrupt: Interrupt,
    ) -> Result<Outcome, CompressError> {
        compress(Request {
            recipe: self.recipe(stages, sets),
            out: self.path(out),
            resume,
            device: &device(),
            data: &self.data(),
            source: self.folder.path(),
            versions: Default::default(),
            view: Mode::Plain,
            interrupt,
        })
    }

    /// Where data of the corner comes from.
    pub fn data(&self) -> DataEnv {
        env(self.folder.path())
    }

    pub fn open(&self, run: &str) -> Run {
        Run::open(&self.path(run), &Device::flex()).unwrap()
    }
}

pub fn device() -> OpenDevice {
    OpenDevice {
        device: Device::flex(),
        name: "flex".into(),
    }
}

fn env(folder: &Path) -> DataEnv {
    DataEnv {
        cache_dir: folder.join("cache"),
        data_dir: None,
        workspace_manifest: folder.join("Cargo.toml"),
    }
}

/// The folder of a trained run, its text and its cache, which stays for the next start of the tests.
fn trained(kind: &str) -> PathBuf {
    static FOLDERS: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    let index = MODELS.iter().position(|(name, _)| *name == kind).unwrap();
    let train = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("compress-{kind}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        let text = folder.join("text.txt");
        fs::write(&text, STREAM.repeat(120)).unwrap();
        fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
        let data = format!("data.name=text:{}", text.display());
        let sets: Vec<String> = MODELS[index]
            .1
            .iter()
            .map(ToString::to_string)
            .chain([data])
            .collect();
        let file = folder.join("recipe.toml");
        kiln_train::train(kiln_train::Request {
            recipe: recipe::load(&folder, &file.to_string_lossy(), &sets).unwrap(),
            out: folder.join("run"),
            resume: false,
            device: device(),
            beside: Vec::new(),
            teacher: None,
            data: &env(&folder),
            source: &folder,
            versions: Default::default(),
            view: Mode::Plain,
            interrupt: Interrupt::none(),
            energy: None,
        })
        .unwrap();
        folder
    };
    FOLDERS[index].get_or_init(train).clone()
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
