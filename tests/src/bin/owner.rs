//! An Overseer with four local labors that waits to be killed. Its argument is a data directory.
//! Prints `ready FLEET` when all labors are ready and each has a plugin that would rather stay.

use overseer::{CallOptions, ControlPlane, Fleet, MainError, Release, local::Local};

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let data = std::env::args_os().nth(1).ok_or("give a data directory")?;
        let plane = ControlPlane::builder().data_directory(data).start().await?;
        let fleet = Fleet::quiet()
            .name(format!("owned-{}", std::process::id()))
            .adapter(Local::new())
            .release(Release::plugin_beside_program("probe_plugin", "1.0.0")?)
            .environment("PROBE_STOP", "hang")
            .control_plane(&plane)
            .start()
            .await?;
        let labors = fleet.start_children(4).await?;
        for labor in &labors {
            labor.ready().await?;
        }
        let [forks, demonises, spins, _] = &labors[..] else { return Err("not four labors".into()) };
        forks.call::<_, u32>("fork_and_hang", &()).await?;
        demonises.call::<_, u32>("daemon", &()).await?;
        let options = CallOptions::default().run(None);
        let _spins = spins.start_call("spin", "", options).await?;
        println!("ready {}", fleet.name());
        std::future::pending().await
    })
}
