//! A first program: money moves. Kill it with `kill -9` whenever you like and
//! start it again: no transfer is lost, none is done by half.
use afterimage::{Area, AreaHeap, Root, in_area};

in_area! {
    struct Bank { accounts: [i64; 10] }
}

impl Root for Bank {
    const NAME: &'static str = "bank";
    fn init(_: AreaHeap) -> Self {
        let accounts = [1000; 10];
        Bank { accounts }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut area: Area<Bank> = Area::open("bank")?;
    loop {
        let mut bank = area.begin()?;
        bank.accounts[0] -= 1;
        bank.accounts[1] += 1;
        let now = bank.accounts;
        println!("{now:?}: {}", bank.commit()?.outcome);
    }
}
