//! Writes the store that `tests/fixture.rs` reads, once for each format:
//! `cargo run -p afterimage-store --example write_fixture -- fixtures/store/format-1`

use afterimage_area_abi::{AreaName, PrimaryId, Reign};
use afterimage_delta::{DeltaBuilder, Image, PAGE_SIZE, PageIndex, Term};
use afterimage_env::RealDisk;
use afterimage_store::Store;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("give a directory")?;
    let name: AreaName = "fixture".parse()?;
    let mut image = Image::new(4 * 4096)?;
    let mut store = Store::create(RealDisk::open(&dir)?, &name, image.len())?;
    for epoch in 1..=6_u8 {
        let mut builder = DeltaBuilder::new(Vec::new());
        let index = PageIndex(u32::from(epoch % 3));
        let mut page = *image.page(index);
        page[usize::from(epoch) * 100..][..usize::from(epoch)].fill(epoch);
        if epoch == 5 {
            page = [0; PAGE_SIZE];
        }
        builder.page(index, image.page(index), &page);
        let delta = builder.finish(image.epoch().next(), image.chain());
        image.apply(&delta)?;
        store.append(&delta)?;
        match epoch {
            2 => store.set_reign(Reign {
                term: Term(1),
                primary: Some(PrimaryId([0xAB; 16])),
            })?,
            3 => store.compact(&image)?,
            5 => store.set_reign(Reign {
                term: Term(2),
                primary: None,
            })?,
            _ => store.sync()?,
        }
    }
    std::fs::remove_file(std::path::Path::new(&dir).join("LOCK"))?;
    Ok(())
}
