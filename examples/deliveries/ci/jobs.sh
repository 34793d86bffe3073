# What the jobs do, whichever system runs them: . ci/jobs.sh
# TAG, RUN, RUN_URL, COMMIT, SOURCE_REPO, RING, CONFIG_REPO and MANIFEST_REPO are set by the job.
. ci/waybill.sh

# The image is reported before it is built, so that a build that fails is seen.
build_image() {
	p1="--p1 $RUN --run-url $RUN_URL --image-tag $TAG --commit-id $COMMIT --service $SERVICE --repository $SOURCE_REPO"
	waybill_report $p1 --status running
	if docker build -q -t "$REGISTRY/$TAG" . && docker push -q "$REGISTRY/$TAG"; then
		waybill_report $p1 --status succeeded
	else
		waybill_report $p1 --status failed
		return 1
	fi
}

# publish REPOSITORY commits what changed there, if anything did: a job may be run again.
publish() {
	git -C "$1" add .
	git -C "$1" diff --cached --quiet && return 0
	git -C "$1" -c user.name=ci -c user.email=ci@example.com commit -q -m "$TAG for $RING"
	git -C "$1" push -q
}

# The configuration of the ring names the image; the commit that says so is reported.
update_config() {
	git clone -q --depth 1 "$CONFIG_REPO" config
	mkdir -p "config/$RING"
	echo "image: $REGISTRY/$TAG" > "config/$RING/${SERVICE##*/}.yaml"
	publish config
	waybill_report --p2 "$RUN" --run-url "$RUN_URL" --image-tag "$TAG" --service "$SERVICE" --env "$RING" --status succeeded \
		--hld-commit-id "$(git -C config rev-parse HEAD)" --repository "$CONFIG_REPO"
}

# Manifests are made of the configuration: reported before, and what came out after. A
# check of a pull request changes nothing and is not reported.
make_manifests() {
	[ -z "${PULL_REQUEST_CHECK:-}" ] || return 0
	rm -rf config && git clone -q --depth 1 "$CONFIG_REPO" config
	waybill_report --p3 "$RUN" --run-url "$RUN_URL" --hld-commit-id "$(git -C config rev-parse HEAD)" --status running
	git clone -q --depth 1 "$MANIFEST_REPO" manifests
	(cd config && find . -name '*.yaml') | while read -r f; do
		mkdir -p "manifests/$(dirname "$f")" && sed 's/^/# made by ci\n/;' "config/$f" > "manifests/$f"
	done
	publish manifests
	waybill_report --p3 "$RUN" --status succeeded --manifest-commit-id "$(git -C manifests rev-parse HEAD)" --repository "$MANIFEST_REPO"
}
