//! `afterimage promote`.

use afterimage_area_abi::AreaName;
use afterimage_link::Address;
use anyhow::Result;
use std::process::ExitCode;

/// Options of `afterimage promote`.
///
/// Raises the area's term at the backup: the old primary is refused from then
/// on, even if it is still alive, and the next program that opens the area with
/// this backup as its target goes on from the last commit there. Only you can
/// know that the old primary is dead or may be cut off; nothing promotes by
/// itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The backup: tcp://HOST:PORT or unix:PATH.
    #[arg(value_name = "BACKUP")]
    backup: Address,
    /// The area.
    #[arg(long, value_name = "NAME")]
    area: AreaName,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (term, epoch) = afterimage_link::promote(&args.backup, &args.area)?;
    println!("area {} is in term {term} now, at epoch {epoch}", args.area);
    Ok(ExitCode::SUCCESS)
}
