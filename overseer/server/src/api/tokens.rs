//! `Tokens`: who may ask over TCP.

use std::time::Duration;

use overseer::FleetName;
use overseer::control_plane::{AuthorityStatus, RotationError};
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Service, caller, proto};
use crate::access::Role;
use crate::access::token::{TokenId, TokenRecord};
use crate::access::tokens::{NewToken, now_ms};
use crate::audit::outcome;
use crate::audit::record::Asked;
use crate::exit::Exit;
use crate::failure::Failure;

fn token(id: TokenId, record: TokenRecord) -> proto::Token {
    let now = now_ms();
    let state = record.state(now).name().to_owned();
    let overlap = record.previous.map(|previous| previous.until_ms).filter(|until| *until > now);
    proto::Token {
        id: id.to_string(),
        name: record.name,
        role: record.role.name().to_owned(),
        fleet: record.fleet.map(|fleet| fleet.to_string()),
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
        revoked_ms: record.revoked_ms,
        overlap_ms: overlap,
        state,
    }
}

fn id(text: &str) -> Result<TokenId, Failure> {
    text.parse().map_err(|()| {
        Failure::input("token.id", "this is no id of a token")
            .help("give the 16 hexadecimal digits that `overseer token list` shows, never the token itself")
    })
}

fn wanted(request: proto::CreateTokenRequest) -> Result<NewToken, Failure> {
    let role: Role = request.role.parse().map_err(|()| {
        Failure::input("token.role", "there is no such role").help("give viewer, operator or admin")
    })?;
    let fleet = request.fleet.map(|fleet| fleet.parse::<FleetName>()).transpose().map_err(|_| {
        Failure::input("token.fleet", "a fleet cannot be called so").help("`overseer fleet list` has them")
    })?;
    Ok(NewToken { name: request.name, role, fleet, lives: request.lives_ms.map(Duration::from_millis) })
}

/// How long clients over TCP are served that know only the old authority, when nobody says.
const LINGER: Duration = Duration::from_secs(7 * 86_400);

#[tonic::async_trait]
impl proto::tokens_server::Tokens for Service {
    async fn create(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Result<Response<proto::CreateTokenResponse>, Status> {
        let caller = caller::of(&request)?;
        let new = wanted(request.into_inner()).map_err(refuse)?;
        let fleet = new.fleet.as_ref().map(FleetName::as_str).unwrap_or_default();
        let asked = Asked::of(fleet).with("name", &new.name).with("role", new.role);
        let lives = new.lives.map(|lives| lives.as_secs());
        let entry = self.record(&caller, asked.with_some("seconds", lives)).await?;
        let made = self.access.tokens.create(new).await.map_err(refuse);
        match made {
            Ok(((id, record), text)) => {
                entry.end_with("ok", &id.to_string()).await;
                let answer = proto::CreateTokenResponse {
                    token: Some(token(id, record)),
                    text: text.expose().clone(),
                };
                Ok(Response::new(answer))
            }
            Err(status) => {
                entry.end(&outcome::<()>(&Err(status.clone()))).await;
                Err(status)
            }
        }
    }

    async fn list(
        &self,
        request: Request<proto::ListTokensRequest>,
    ) -> Result<Response<proto::ListTokensResponse>, Status> {
        let tokens = self.access.tokens.list(request.get_ref().all).await.map_err(refuse)?;
        let tokens = tokens.into_iter().map(|(id, record)| token(id, record)).collect();
        Ok(Response::new(proto::ListTokensResponse { tokens }))
    }

    async fn revoke(
        &self,
        request: Request<proto::RevokeTokenRequest>,
    ) -> Result<Response<proto::RevokeTokenResponse>, Status> {
        let caller = caller::of(&request)?;
        let id = id(&request.get_ref().id).map_err(refuse)?;
        let entry = self.record(&caller, Asked::default().target(&id.to_string())).await?;
        // To its end: it must not hang on the client.
        let access = std::sync::Arc::clone(&self.access);
        self.to_the_end(entry, async move {
            let (id, record) = access.tokens.revoke(id).await?;
            Ok(proto::RevokeTokenResponse { token: Some(token(id, record)) })
        })
        .await
    }

    async fn rotate(
        &self,
        request: Request<proto::RotateTokenRequest>,
    ) -> Result<Response<proto::RotateTokenResponse>, Status> {
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let id = id(&request.id).map_err(refuse)?;
        let overlap = Duration::from_millis(request.overlap_ms);
        let asked = Asked::default().target(&request.id).with("overlap_s", overlap.as_secs());
        let entry = self.record(&caller, asked).await?;
        let access = std::sync::Arc::clone(&self.access);
        self.to_the_end(entry, async move {
            let lives = request.lives_ms.map(Duration::from_millis);
            let ((id, record), text) = access.tokens.rotate(id, overlap, lives).await?;
            Ok(proto::RotateTokenResponse { token: Some(token(id, record)), text: text.expose().clone() })
        })
        .await
    }

    async fn authority(
        &self,
        request: Request<proto::AuthorityRequest>,
    ) -> Result<Response<proto::AuthorityResponse>, Status> {
        let caller = caller::of(&request)?;
        let mut answer = authority(self.server.plane.authority_status());
        let seen: Vec<_> = self.seen(&caller).fleets().iter().map(|slot| slot.name.to_string()).collect();
        answer.waits_for.retain(|waits| seen.contains(&waits.fleet));
        Ok(Response::new(answer))
    }

    async fn rotate_authority(
        &self,
        request: Request<proto::RotateAuthorityRequest>,
    ) -> Result<Response<proto::RotateAuthorityResponse>, Status> {
        let caller = caller::of(&request)?;
        let linger = request.get_ref().linger_ms.map_or(LINGER, Duration::from_millis);
        // Whom nobody meets over TCP, or only with somebody's own certificate, nobody has to be told of.
        let shown =
            self.server.control.get().is_some() && self.server.config.read().control_identity.is_none();
        let linger = if shown { linger } else { Duration::ZERO };
        let entry = self.record(&caller, Asked::default().with("linger_s", linger.as_secs())).await?;
        let plane = self.server.plane.clone();
        self.to_the_end(entry, async move {
            let rotated = plane.rotate_authority(linger).await.map_err(|error| {
                let exit = match error {
                    RotationError::UnderWay(_) | RotationError::Lingering { .. } => Exit::BadInput,
                    _ => Exit::Fault,
                };
                Failure::told(exit, error.code(), &error.to_string())
            })?;
            Ok(proto::RotateAuthorityResponse { authority: Some(authority(rotated)) })
        })
        .await
    }
}

fn authority(status: AuthorityStatus) -> proto::AuthorityResponse {
    let waits = |(fleet, labor): (overseer::FleetName, overseer::LaborId)| proto::AuthorityWaits {
        fleet: fleet.to_string(),
        labor: labor.to_string(),
    };
    proto::AuthorityResponse {
        certificate: status.bundle,
        stage: status.stage.name().to_owned(),
        since_ms: status.since_ms,
        ends_ms: status.ends_ms,
        waits_for: status.waits_for.into_iter().map(waits).collect(),
        clients_until_ms: status.clients_until_ms,
    }
}
