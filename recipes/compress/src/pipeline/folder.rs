//! Where a compression lies.
//!
//! ```text
//! OUT/                    a run folder: eval, generate and cost take it
//!   compress.toml         the resolved recipe
//!   compress.json         the figures of every stage
//!   report.html
//!   stages/
//!     0-original/         stage.json
//!     1-quantize/         a run folder too, with stage.json once it was measured
//!     2-recover/
//!     2-recover-training/ the run of a stage that trains
//! ```

use std::path::{Path, PathBuf};

use kiln_run::hardware::{Hardware, Provenance};
use kiln_run::{FileError, RunFolder, atomic_write, recipe};
use kiln_train::{
    Run, RunConfig, Score, StoredModel, WINDOWS_VERSION, WindowColumns, WindowScores, hash_file,
    read_resolved,
};
use kiln_zoo::ModelConfig;

use super::Request;
use crate::CompressError;
use crate::figures::{self, Compression, FIGURES, StageFigures};
use crate::recipe::CompressRecipe;

/// The resolved recipe of a compression.
const RECIPE: &str = "compress.toml";
/// The figures of one.
const STAGE: &str = "stage.json";

pub(super) struct Folder {
    run: RunFolder,
    /// Names of the stages' folders; the first is the original's.
    names: Vec<String>,
}

impl Folder {
    /// Makes and locks the folder.
    pub fn create(request: &Request<'_>, from: &Run) -> Result<Self, CompressError> {
        let folder = Self::of(RunFolder::create(&request.out)?, &request.recipe.value);
        request.recipe.write(&folder.run.path().join(RECIPE))?;
        let hardware = Hardware::detect(Some(request.device.name.clone()));
        let seed = request.recipe.value.calibration.seed;
        Provenance::gather(request.source, hardware, request.versions.clone(), seed)
            .write(&folder.run.provenance())?;
        // Last, as a folder without it is none to resume.
        copy(&from.folder().recipe(), &folder.run.recipe())?;
        Ok(folder)
    }

    /// Locks the folder of an earlier start.
    ///
    /// # Errors
    /// There is none, or it was started with another recipe.
    pub fn resume(request: &Request<'_>, _from: &Run) -> Result<Self, CompressError> {
        let run = RunFolder::resume(&request.out)?;
        let path = run.path().join(RECIPE);
        let name = path.to_string_lossy();
        let before = recipe::load::<CompressRecipe>(run.path(), &name, &[])?.value;
        let now = &request.recipe.value;
        let table = |recipe: &CompressRecipe| {
            toml::Table::try_from(recipe).map_err(kiln_run::RecipeError::NotToml)
        };
        let (before, after) = (table(&before)?, table(now)?);
        let differs = |key: &&String| before.get(*key) != after.get(*key);
        match after
            .keys()
            .find(|key| *key != "description" && differs(key))
        {
            Some(key) => Err(CompressError::RecipeChanged { key: key.clone() }),
            None => Ok(Self::of(run, now)),
        }
    }

    fn of(run: RunFolder, recipe: &CompressRecipe) -> Self {
        let stages = recipe.stage.iter().map(|stage| stage.work.kind());
        let kinds = ["original"].into_iter().chain(stages).enumerate();
        Self {
            names: kinds
                .map(|(number, kind)| format!("{number}-{kind}"))
                .collect(),
            run,
        }
    }

    pub fn report(&self) -> PathBuf {
        self.run.report()
    }

    /// Folder of a stage; 0 is the original, of which it has the figures only.
    pub fn stage(&self, number: usize) -> PathBuf {
        self.run.path().join("stages").join(&self.names[number])
    }

    /// Folder of the run that a stage trains.
    pub fn training(&self, number: usize) -> PathBuf {
        let name = format!("{}-training", self.names[number]);
        self.run.path().join("stages").join(name)
    }

    /// The figures of a stage that was finished by an earlier start.
    ///
    /// # Errors
    /// Figures that cannot be read; weights that are not those that were measured.
    pub fn finished(&self, number: usize) -> Result<Option<StageFigures>, CompressError> {
        let path = self.stage(number).join(STAGE);
        if !path.is_file() {
            return Ok(None);
        }
        let figures: StageFigures = figures::read(&path)?;
        if number > 0 {
            let weights = self.stage(number).join("model.safetensors");
            let found = hash_file(&weights)?;
            if found != figures.weights {
                let why = format!(
                    "its sha256 is {found}, but {STAGE} beside it says {}; remove the folder of this stage and those after it, and \
                     resume",
                    figures.weights
                );
                return Err(CompressError::BadFile { path: weights, why });
            }
        }
        Ok(Some(figures))
    }

    /// Writes the run of a stage that was made of another run, over what an unfinished one left.
    pub fn write_run(
        &self,
        number: usize,
        from: &Run,
        config: &ModelConfig,
        model: &StoredModel,
    ) -> Result<(), CompressError> {
        let path = self.stage(number);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(FileError::io("remove", &path))?;
        }
        std::fs::create_dir_all(&path).map_err(FileError::io("create", &path))?;
        let weights = path.join("model.safetensors");
        model.write(&weights)?;
        let table = model.table();
        let run = RunConfig {
            version: table.config_version(),
            model: config.clone(),
            weights: hash_file(&weights)?,
            storage: Some(table),
            ..from.config.clone()
        };
        // In one line: the storage of every tensor is a part of the size that is reported.
        atomic_write(&path.join("config.json"), |out| {
            serde_json::to_writer(&mut *out, &run).map_err(std::io::Error::from)
        })?;
        if from.config.tokenizer.is_some() {
            copy(&from.tokenizer_path(), &path.join("tokenizer.json"))?;
        }
        let recipe = path.join("recipe.toml");
        if from.config.model == *config {
            return Ok(copy(&from.folder().recipe(), &recipe)?);
        }
        let mut resolved = read_resolved(from.folder())?;
        resolved.model = config.clone();
        Ok(resolved.written_out()?.write(&recipe)?)
    }

    /// `windows.json` of a stage: what every validation window scored.
    pub fn write_windows(&self, number: usize, windows: &[Score]) -> Result<(), CompressError> {
        let scores = WindowScores {
            version: WINDOWS_VERSION,
            validation: WindowColumns::of(windows),
            test: None,
        };
        Ok(atomic_write(
            &self.stage(number).join("windows.json"),
            |out| serde_json::to_writer(&mut *out, &scores).map_err(std::io::Error::from),
        )?)
    }

    /// Writes the figures of a stage, which makes it a finished one.
    pub fn write(&self, figures: &StageFigures) -> Result<(), CompressError> {
        let path = self.stage(figures.number);
        std::fs::create_dir_all(&path).map_err(FileError::io("create", &path))?;
        Ok(figures::write(figures, &path.join(STAGE))?)
    }

    /// Makes the last stage the run of the whole folder. `config.json` comes last: with it, the folder is a finished run.
    pub fn finish(&self, compression: &Compression) -> Result<(), CompressError> {
        let last = self.stage(compression.stages.len());
        figures::write(compression, &self.run.path().join(FIGURES))?;
        for name in [
            "model.safetensors",
            "tokenizer.json",
            "windows.json",
            // The model may have another shape than the original's.
            "recipe.toml",
            "config.json",
        ] {
            let from = last.join(name);
            if from.is_file() {
                copy(&from, &self.run.path().join(name))?;
            }
        }
        Ok(())
    }
}

/// Bytes of a run's weights and of what tells how they are stored.
pub(super) fn file_bytes(run: &RunFolder) -> Result<u64, FileError> {
    let size = |path: &Path| {
        let metadata = std::fs::metadata(path).map_err(FileError::io("read", path))?;
        Ok(metadata.len())
    };
    Ok(size(&run.model())? + size(&run.config())?)
}

/// Copies a file; the copy is there whole, or not at all.
fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let bytes = std::fs::read(from).map_err(FileError::io("read", from))?;
    atomic_write(to, |out| out.write_all(&bytes))
}
