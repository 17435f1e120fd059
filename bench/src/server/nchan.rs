//! nginx with nchan, where it is installed.

use std::io;
use std::process::Stdio;

use super::{Dialect, Server, free_address, is_installed, until_it_listens};
use crate::process::{self, Process};

/// Where Debian puts it.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

impl Server {
    /// Starts nginx with nchan on a processor.
    pub(crate) fn nchan(core: usize) -> io::Result<Self> {
        is_installed("nginx")?;
        if !std::fs::exists(MODULE)? {
            return Err(io::Error::other(format!("there is no {MODULE}")));
        }
        let directory = tempfile::tempdir()?;
        let place = directory.path().display();
        let address = free_address()?;
        let config = format!(
            "load_module {MODULE};\ndaemon off;\nworker_processes 1;\n\n\
             pid {place}/pid;\nerror_log {place}/error.log crit;\n\
             events {{ worker_connections 40000; }}\n\
             http {{\naccess_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 1h;\nclient_header_timeout 1h;\n\
             nchan_shared_memory_size 256M;\n\
             client_body_temp_path {place}/body;\nproxy_temp_path {place}/proxy;\n\
             fastcgi_temp_path {place}/fastcgi;\nuwsgi_temp_path {place}/uwsgi;\nscgi_temp_path {place}/scgi;\n\
             server {{\nlisten {address} backlog=16384;\n\
             location ~ ^/publish/(\\w+)$ {{ nchan_publisher http; nchan_channel_id $1; nchan_message_buffer_length 200; }}\n\
             location ~ ^/(stream|socket)/(\\w+)$ {{ nchan_subscriber; nchan_channel_id $2; nchan_subscriber_first_message newest; nchan_message_buffer_length 200; }}\n\
             }}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut command = process::program("nginx", &[core])?;
        command
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut process = Process::start(&mut command)?;
        until_it_listens("nginx", address, &mut process)?;
        Ok(Self {
            clients: address,
            publish: address,
            dialect: Dialect::Nchan,
            processes: vec![process],
            _directory: Some(directory),
        })
    }
}
