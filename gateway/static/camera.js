// Takes a photo with the computer's camera, in a dialog of the page.

/** Why there is no photo, by the name of the browser's error. */
const REASONS = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it beside the address of this page, or choose a photo.",
  NotFoundError: "No camera was found. Choose a photo instead.",
  NotReadableError: "The camera is in use by another program. Close that, or choose a photo.",
};
const INSECURE =
  "Browsers give the camera only to pages that come over https:// or from this machine. Choose a photo instead.";

/** A File with the photo, or null where the dialog was closed; an Error says why there is no camera. */
export async function takePhoto(dialog) {
  const stream = await openCamera();
  const video = dialog.querySelector("video");
  const shutter = dialog.querySelector("[value=take]");
  shutter.disabled = true; // until there is something to see
  video.onplaying = () => (shutter.disabled = false);
  video.srcObject = stream;
  dialog.returnValue = "";
  dialog.showModal();
  try {
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    return dialog.returnValue === "take" ? await frameOf(video) : null;
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  }
}

async function openCamera() {
  if (!navigator.mediaDevices) throw new Error(INSECURE);
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The camera cannot be used: ${error.message}`);
  }
}

async function frameOf(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new File([await jpegOf(canvas)], "camera.jpg", { type: "image/jpeg" });
}

/** The canvas as a JPEG file's Blob. */
export function jpegOf(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}
