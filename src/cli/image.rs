//! `joey image …`: the image store, with or without a running daemon.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::config::align;
use super::held;
use super::settings::Settings;
use crate::runtime::image::reference::Reference;
use crate::runtime::image::{Credentials, Image, Images, Registries};

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import the images of a docker-archive or OCI archive (plain, gzip or zstd)
    Import {
        /// The archive, or - for standard input
        file: PathBuf,
    },
    /// Fetch an image from its registry, for every pod
    Pull {
        /// The image, as a pod names it
        reference: String,
        /// User name and password for the registry (nothing prompts for them; pods name imagePullSecrets)
        #[arg(
            long,
            value_name = "USER:PASSWORD",
            env = "JOEY_REGISTRY_CREDENTIALS",
            hide_env_values = true
        )]
        credentials: Option<String>,
    },
    /// List the images that are present
    #[command(alias = "ls")]
    List,
    /// Print everything about one image as JSON
    Inspect {
        /// Name, digest or ID of the image
        reference: String,
    },
    /// Remove a name; content that nothing uses any more goes with it
    #[command(alias = "rm")]
    Remove {
        /// Names of images
        #[arg(required = true)]
        reference: Vec<String>,
    },
    /// Build an image from a Containerfile (or Dockerfile); RUN is not known
    Build {
        /// Name of the new image
        #[arg(short, long, value_name = "NAME:TAG")]
        tag: String,
        /// Containerfile [default: DIR/Containerfile, then DIR/Dockerfile]
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Directory that COPY and ADD take from
        directory: PathBuf,
    },
    /// Write an image as an OCI archive
    Export {
        /// Name, digest or ID of the image
        reference: String,
        /// The archive to write
        file: PathBuf,
    },
}

/// Opens the image store that the settings name.
pub fn open(settings: &Settings) -> anyhow::Result<Images> {
    let registries = Registries {
        plain_http: settings.plain_http_registries(),
        ca_file: settings.registry_ca_file(),
    };
    let data_dir = settings.data_dir();
    super::instance::check_data_dir(&data_dir)?;
    super::instance::make_private(&data_dir)?;
    Ok(Images::open(&data_dir.join(IMAGES), registries)?)
}

/// Where the images are, below the data directory.
const IMAGES: &str = "images";

impl ImageCommand {
    /// The image that a command needs which makes none; `Some("")` when it takes whatever there is.
    fn looks_for(&self) -> Option<&str> {
        match self {
            ImageCommand::List => Some(""),
            ImageCommand::Inspect { reference } | ImageCommand::Export { reference, .. } => {
                Some(reference)
            }
            ImageCommand::Remove { reference } => reference.first().map(String::as_str),
            ImageCommand::Import { .. }
            | ImageCommand::Pull { .. }
            | ImageCommand::Build { .. } => None,
        }
    }
}

fn nothing_here(data_dir: &Path, looked_for: &str) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        looked_for.is_empty(),
        "image {looked_for:?} is not present: {} holds no images",
        data_dir.display()
    );
    print(&[])?;
    Ok(ExitCode::SUCCESS)
}

pub async fn run(settings: &Settings, command: ImageCommand) -> anyhow::Result<ExitCode> {
    if let Some(looked_for) = command.looks_for()
        && !settings.data_dir().join(IMAGES).try_exists()?
    {
        // To look is not a reason to make what is looked into.
        return nothing_here(&settings.data_dir(), looked_for);
    }
    if command.looks_for().is_none() {
        warn_of_other_daemons(&settings.data_dir());
    }
    let images = open(settings)?;
    match command {
        ImageCommand::Import { file } => import(&images, &file).await?,
        ImageCommand::Pull { reference, credentials } => {
            let credentials =
                credentials.as_deref().map(|text| parse(text, &reference)).transpose()?;
            let image = images.pull(&reference, credentials.as_slice()).await?;
            println!("{} {}", image.names.first().unwrap_or(&reference), image.id);
        }
        ImageCommand::List => list(&images)?,
        ImageCommand::Inspect { reference } => {
            let image = images
                .find(&reference)?
                .with_context(|| format!("image {reference:?} is not present"))?;
            writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(&described(&image))?)?;
        }
        ImageCommand::Remove { reference } => {
            for one in &reference {
                images.remove(one)?;
                println!("removed {one}");
            }
        }
        ImageCommand::Build { tag, file, directory } => {
            let image =
                crate::runtime::image::build::build(&images, &tag, &directory, file.as_deref())
                    .await?;
            println!("{tag} {}", image.id);
        }
        ImageCommand::Export { reference, file } => {
            crate::runtime::image::export::export(&images, &reference, &file)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who forgets `--data-dir` fills a store that nobody looks into.
fn warn_of_other_daemons(data_dir: &Path) {
    let data_dir = data_dir.canonicalize().unwrap_or_else(|_absent| data_dir.to_owned());
    if let Some(warning) = held::warning(&data_dir, &held::data_dirs()) {
        eprintln!("warning: {warning}");
    }
}

async fn import(images: &Images, file: &Path) -> anyhow::Result<()> {
    let archive: Box<dyn Read + Send> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).with_context(|| format!("opening {}", file.display()))?),
    };
    let imported = images.import(archive).await.with_context(|| {
        format!("importing {} as a docker-archive or OCI archive", file.display())
    });
    for image in imported? {
        println!("imported {}", image.names.join(", "));
    }
    Ok(())
}

fn parse(text: &str, reference: &str) -> anyhow::Result<Credentials> {
    let (username, password) = text.split_once(':').context("credentials are USER:PASSWORD")?;
    let reference: Reference = reference.parse().with_context(|| format!("image {reference:?}"))?;
    let registry = reference.domain().to_owned();
    Ok(Credentials { registry, username: username.to_owned(), password: password.to_owned() })
}

fn list(images: &Images) -> anyhow::Result<()> {
    print(&images.list()?)
}

fn print(images: &[Image]) -> anyhow::Result<()> {
    let mut rows = vec![["NAME", "ID", "SIZE", "CREATED"].map(str::to_owned)];
    for image in images {
        for name in &image.names {
            rows.push([
                name.clone(),
                image.id.trim_start_matches("sha256:").chars().take(12).collect(),
                human_size(image.size_bytes),
                image.created.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
    }
    rows[1..].sort();
    let mut out = io::stdout().lock();
    for line in align(&rows) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn human_size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1}kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}MB", bytes as f64 / 1e6),
        _ => format!("{:.1}GB", bytes as f64 / 1e9),
    }
}

fn described(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "id": image.id,
        "names": image.names,
        "digests": image.digests,
        "sizeBytes": image.size_bytes,
        "created": image.created,
        "config": {
            "entrypoint": image.config.entrypoint,
            "cmd": image.config.cmd,
            "env": image.config.env,
            "user": image.config.user,
            "workingDir": image.config.working_dir,
            "exposedPorts": image.config.exposed_ports,
            "labels": image.config.labels,
            "volumes": image.config.volumes,
            "stopSignal": image.config.stop_signal,
        },
        "layers": image.layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings::Sources;

    #[tokio::test]
    async fn to_look_for_images_makes_nothing() {
        let unique = format!("joey-images-{}", crate::sys::clock::uuid());
        let data_dir = std::env::temp_dir().join(unique);
        let flags = [("data-dir", vec![data_dir.display().to_string()])].into();
        let sources = Sources { flags, environment: &|_| None, file: None };
        let settings = Settings::merge(sources).unwrap();
        run(&settings, ImageCommand::List).await.unwrap();
        let reference = "toolbox".to_owned();
        let failed = run(&settings, ImageCommand::Inspect { reference }).await.unwrap_err();
        assert!(failed.to_string().starts_with("image \"toolbox\" is not present"), "{failed}");
        assert!(!data_dir.exists());
    }

    #[test]
    fn credentials_are_for_the_registry_that_the_image_comes_from() {
        for (reference, registry) in [
            ("team/app:1", "docker.io"),
            ("app", "docker.io"),
            ("registry.example.com:5000/team/app:1", "registry.example.com:5000"),
            ("localhost/app", "localhost"),
        ] {
            let credentials = parse("ann:pass:word", reference).unwrap();
            assert_eq!(credentials.registry, registry, "{reference}");
            assert_eq!((&*credentials.username, &*credentials.password), ("ann", "pass:word"));
        }
        assert!(parse("ann", "app").is_err());
        assert!(parse("ann:password", "Not An Image").is_err());
    }
}
